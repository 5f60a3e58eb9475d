//! Questions to agents: what a host would answer now, without a job.
//!
//! A question is in memory for as long as someone waits for its answer. It goes out with a reply to a poll of the host's
//! agent, again and again until a poll says that the agent is at it: a reply that was lost costs nothing. It has no lease
//! and no fence, and its answer changes nothing.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::agent_v1::{Answer, Ask, Question};
use axum::extract::State;
use axum::http::StatusCode;
use model::{HostId, QuestionId};
use tokio::sync::oneshot;

use super::Peer;
use crate::app::Shared;
use crate::http::{ApiError, ApiResult, Json, PathId};

/// Most questions that wait for one host.
const MAX_WAITING: usize = 8;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    open: Mutex<HashMap<QuestionId, Open>>,
}

#[derive(Debug)]
struct Open {
    host: HostId,
    ask: Ask,
    answer: oneshot::Sender<Answer>,
}

/// A question that was asked; dropped, it is taken back.
#[derive(Debug)]
pub(crate) struct Asked<'q> {
    questions: &'q Questions,
    id: QuestionId,
    answer: oneshot::Receiver<Answer>,
}

impl Questions {
    /// Asks the agent of a host; `None` where too many questions wait for it.
    pub(crate) fn ask(&self, host: HostId, ask: Ask) -> Option<Asked<'_>> {
        let (sender, answer) = oneshot::channel();
        let id = QuestionId::random();
        let mut open = self.lock();
        if open.values().filter(|open| open.host == host).count() >= MAX_WAITING {
            return None;
        }
        let question = Open {
            host,
            ask,
            answer: sender,
        };
        open.insert(id, question);
        Some(Asked {
            questions: self,
            id,
            answer,
        })
    }

    /// Returns the questions to a host that its agent is not at.
    pub(super) fn waiting(&self, host: HostId, answering: &[QuestionId]) -> Vec<Question> {
        self.lock()
            .iter()
            .filter(|(id, open)| open.host == host && !answering.contains(id))
            .map(|(id, open)| Question {
                id: *id,
                ask: open.ask.clone(),
            })
            .collect()
    }

    /// Takes an answer of the agent of a host; says whether anyone waits for it.
    fn take(&self, host: HostId, id: QuestionId, answer: Answer) -> bool {
        let mut open = self.lock();
        if open.get(&id).is_none_or(|open| open.host != host) {
            return false;
        }
        open.remove(&id)
            .is_some_and(|open| open.answer.send(answer).is_ok())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<QuestionId, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asked<'_> {
    /// Waits for the answer; `None` where none came in time.
    pub(crate) async fn answer(mut self, limit: Duration) -> Option<Answer> {
        tokio::time::timeout(limit, &mut self.answer)
            .await
            .ok()?
            .ok()
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.questions.lock().remove(&self.id);
    }
}

/// `POST /agent/v1/questions/{question}/answer`.
pub(super) async fn answer(
    State(app): State<Shared>,
    peer: Peer,
    PathId(question): PathId<QuestionId>,
    Json(answer): Json<Answer>,
) -> ApiResult<StatusCode> {
    let taken = peer
        .0
        .host
        .is_some_and(|host| app.questions.take(host, question, answer));
    if !taken {
        return Err(ApiError::not_found(format!(
            "nobody waits for an answer to {question}"
        )));
    }
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask() -> Ask {
        let id = "9d0c7c55-1c5e-4a4d-8a3c-2f3a1a5f7c10";
        let memory = serde_json::json!({
            "startup_mib": 1, "dynamic": false, "minimum_mib": 1, "maximum_mib": 1,
        });
        let vm = serde_json::json!({
            "id": id, "name": "web01", "generation": "gen2", "version": "10.0", "processors": 1, "memory": memory,
            "controllers": [], "nics": [],
        });
        let point = serde_json::json!({
            "id": id, "job": id, "fence": 1, "vm": vm, "host": {"id": id, "name": "HV01", "os_version": "10.0"},
            "power": "off", "created": "2026-11-23T10:20:30Z", "method": "rct", "kind": "full", "consistency": "crash",
            "disks": [], "files": [], "stored_bytes": 0,
        });
        let wish = serde_json::json!({
            "point": id, "vm": id, "scope": {"kind": "vm"}, "target": {"kind": "original"},
        });
        let work = serde_json::json!({"kind": "plan-restore", "wish": wish, "point": point});
        serde_json::from_value(work).unwrap()
    }

    #[tokio::test]
    async fn a_question_goes_to_its_host_until_it_is_answered_or_taken_back() {
        let (here, there) = (HostId::random(), HostId::random());
        let questions = Questions::default();
        let asked = questions.ask(here, ask()).unwrap();
        assert!(questions.waiting(there, &[]).is_empty());
        let id = questions.waiting(here, &[])[0].id;
        assert_eq!(
            questions.waiting(here, &[])[0].id,
            id,
            "a reply may be lost"
        );
        assert!(questions.waiting(here, &[id]).is_empty());
        let answer = || Answer::Failed {
            code: "x".to_owned(),
            message: "y".to_owned(),
            hint: None,
        };
        assert!(!questions.take(there, id, answer()));
        assert!(questions.take(here, id, answer()));
        assert!(!questions.take(here, id, answer()));
        assert!(asked.answer(Duration::from_secs(5)).await.is_some());

        let asked: Vec<_> = (0..MAX_WAITING)
            .filter_map(|_| questions.ask(here, ask()))
            .collect();
        assert_eq!(asked.len(), MAX_WAITING);
        assert!(questions.ask(here, ask()).is_none());
        drop(asked);
        assert!(questions.waiting(here, &[]).is_empty());
    }
}
