//! Following jobs to their end: progress on a terminal, step by step lines elsewhere.

use std::time::Duration;

use api::v1::Job;
use api_client::{ClientError, Kind, People};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::exit::{End, Exit, exit_of};
use crate::failure::Failure;
use crate::output::{Output, clean};

/// How long one request for news may be held by the server, in seconds.
const WAIT_SECS: u64 = 20;
/// How long the server may be away (a restart) before following gives up.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two attempts to reach a server that is away.
const PAUSE: Duration = Duration::from_millis(500);

/// Returns whether a job in this state will never change again.
pub(crate) fn has_ended(state: &str) -> bool {
    !matches!(state, "queued" | "running")
}

/// Returns the exit code of a job that has ended.
pub(crate) fn exit_of_job(job: &Job) -> Exit {
    exit_of(End::Job {
        state: &job.state,
        error: job.error.as_ref().map(|error| error.code.as_str()),
    })
}

/// Follows several jobs at once to their ends and returns them in the same order.
pub(crate) async fn follow_all(
    out: Output,
    client: &People,
    jobs: Vec<Job>,
    limit: Option<Duration>,
) -> Result<Vec<Job>, Failure> {
    let bars = MultiProgress::new();
    let deadline = limit.map(|limit| Instant::now() + limit);
    let mut set = JoinSet::new();
    for (index, job) in jobs.into_iter().enumerate() {
        let client = client.clone();
        let mut watcher = Watcher::new(out, &bars, &job);
        set.spawn(async move {
            let ended = follow(&client, job, deadline, |job| {
                watcher.saw(job);
                Ok(())
            })
            .await;
            (index, ended)
        });
    }
    let mut ended = Vec::new();
    while let Some(joined) = set.join_next().await {
        let (index, job) = joined
            .map_err(|error| Failure::new("failed", format!("following a job broke: {error}")))?;
        ended.push((index, job?));
    }
    ended.sort_by_key(|(index, _)| *index);
    Ok(ended.into_iter().map(|(_, job)| job).collect())
}

/// Follows one job; `saw` gets it now and after every change.
pub(crate) async fn follow(
    client: &People,
    mut job: Job,
    deadline: Option<Instant>,
    mut saw: impl FnMut(&Job) -> Result<(), Failure>,
) -> Result<Job, Failure> {
    let mut away_since: Option<Instant> = None;
    saw(&job)?;
    while !has_ended(&job.state) {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(Failure::new(
                "timed-out",
                format!(
                    "job {} is still {} ({})",
                    job.id,
                    job.state,
                    waiting_for(&job)
                ),
            )
            .hint(format!(
                "it goes on; follow it with `reprise job watch {}`",
                job.id
            )));
        }
        let secs = left.map_or(WAIT_SECS, |left| left.as_secs().clamp(1, WAIT_SECS));
        let path = format!(
            "/jobs/{}/wait?change={}&secs={secs}",
            People::segment(&job.id),
            job.change
        );
        match client.get::<Job>(&path).await {
            Ok(news) => {
                away_since = None;
                if news.change != job.change {
                    job = news;
                    saw(&job)?;
                }
            }
            Err(error) if may_pass(&error) => {
                let since = *away_since.get_or_insert_with(Instant::now);
                if since.elapsed() > PATIENCE {
                    return Err(error.into());
                }
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(job)
}

fn may_pass(error: &ClientError) -> bool {
    match error.kind() {
        Kind::Retry => true,
        Kind::Fenced
        | Kind::Denied
        | Kind::NotFound
        | Kind::Refused
        | Kind::Damaged
        | Kind::StoreFull
        | Kind::Bug => false,
    }
}

/// Says what a job is doing or waiting for.
pub(crate) fn waiting_for(job: &Job) -> String {
    if let Some(cause) = &job.cause {
        return match &job.cause_detail {
            Some(detail) => format!("{cause}: {detail}"),
            None => cause.clone(),
        };
    }
    job.steps
        .iter()
        .rev()
        .find(|step| step.state == "running")
        .map_or_else(|| "no step yet".to_owned(), |step| step.name.clone())
}

/// Names a job for people: its kind and VM.
fn title(job: &Job) -> String {
    let vm = job.vm.as_ref().map_or("?", |vm| vm.name.as_str());
    format!("{} {}", job.kind, clean(vm))
}

/// Shows one job while it goes on.
struct Watcher {
    out: Output,
    bar: Option<ProgressBar>,
    last: String,
}

impl Watcher {
    fn new(out: Output, bars: &MultiProgress, job: &Job) -> Self {
        let bar = out.shows_progress().then(|| {
            let style = ProgressStyle::with_template(
                "{prefix} {msg} {bar:24} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left",
            );
            let bar = bars.add(ProgressBar::new(0).with_prefix(title(job)));
            if let Ok(style) = style {
                bar.set_style(style);
            }
            bar
        });
        Self {
            out,
            bar,
            last: String::new(),
        }
    }

    fn saw(&mut self, job: &Job) {
        let doing = if has_ended(&job.state) {
            job.state.clone()
        } else {
            format!("{} ({})", job.state, clean(&waiting_for(job)))
        };
        let news = doing != self.last;
        match &self.bar {
            Some(bar) => {
                if news {
                    bar.set_message(doing.clone());
                    // Rate and time left are those of the step, not of the whole job.
                    bar.reset_eta();
                }
                bar.set_length(job.progress.bytes_total);
                bar.set_position(job.progress.bytes_done);
                if has_ended(&job.state) {
                    bar.finish_and_clear();
                }
            }
            None if news => self.out.note(&format!("{}: {doing}", title(job))),
            None => {}
        }
        self.last = doing;
    }
}
