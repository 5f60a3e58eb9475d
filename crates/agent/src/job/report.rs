//! The reporter of a job: sends what is new, renews the lease, stops the job where that is no longer possible.

use std::time::Duration;

use api::agent_v1::Report;
use api_client::Kind;
use tracing::warn;

use super::{JobContext, Stop};
use crate::clock;

/// At most this long after something happened it is reported.
const SOON: Duration = Duration::from_millis(200);

impl JobContext {
    /// Sends what is new. Returns whether the lease was renewed.
    pub(crate) async fn report(&self) -> bool {
        let report = {
            let pending = self.pending();
            Report {
                fence: self.fence,
                events: pending.events.clone(),
                progress: Some(self.progress()),
                figures: Some(pending.figures),
            }
        };
        let sent = report.events.last().map_or(0, |event| event.number);
        match self.server.report(self.job, &report).await {
            Ok(reply) => {
                self.pending().events.retain(|event| event.number > sent);
                if reply.cancel {
                    self.stop(Stop::Cancelled);
                }
                true
            }
            Err(error) if matches!(error.kind(), Kind::Fenced | Kind::NotFound) => {
                self.stop(Stop::Fenced);
                false
            }
            Err(error) => {
                warn!(job.id = %self.job, "cannot report on the job: {error}");
                false
            }
        }
    }

    fn has_events(&self) -> bool {
        !self.pending().events.is_empty()
    }
}

/// Reports on the job until `done` completes, then once more.
pub(crate) async fn report_until<T>(context: &JobContext, done: impl Future<Output = T>) -> T {
    let renew = Duration::from_secs(jobs::LEASE_RENEW_SECS);
    let limit = Duration::from_secs(jobs::AGENT_STOPS_SECS);
    let reporter = async {
        let mut renewed = clock::since_boot();
        let mut pause = renew;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = context.changed.notified() => tokio::time::sleep(SOON).await,
            }
            // Taken before the request: the server's lease began no later than when it answered.
            let asked = clock::since_boot();
            if context.report().await {
                renewed = asked;
                pause = renew;
            } else {
                pause = Duration::from_secs(1);
            }
            if clock::since_boot().saturating_sub(renewed) >= limit {
                context.stop(Stop::LeaseLost);
            }
        }
    };
    let value = tokio::select! {
        value = done => value,
        never = reporter => never,
    };
    for _ in 0..3 {
        if !context.has_events() || context.report().await {
            break;
        }
    }
    value
}
