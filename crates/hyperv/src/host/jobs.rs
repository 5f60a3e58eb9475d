//! Methods that start jobs, and waiting for them.

use std::time::Duration;

use tokio::time::Instant;
use wsman::{Epr, Instance, ObjectPath, Properties, association_query, uri};

use super::{Host, objects};
use crate::error::code;
use crate::{Error, ErrorKind};

/// How long the host may be out of reach while we wait for a job.
const OUT_OF_REACH: Duration = Duration::from_secs(90);

/// JobState of a job that somebody has suspended.
const SUSPENDED: u32 = 5;

/// What a method call came to.
pub(super) struct Done {
    /// Its out-parameters. References to results are NULL where a job ran.
    pub(super) outputs: Properties,
    /// The job, where one ran.
    pub(super) job: Option<Epr>,
    /// What the job warned of.
    pub(super) warning: Option<String>,
}

/// A call that may have happened.
pub(super) struct LostAnswer {
    error: Error,
    start: Instant,
    pause: Duration,
    quiet_looks: u32,
}

/// What the state of a job means, in both sets of values.
enum Progress {
    Working,
    Done,
    Warnings,
    Failed,
}

fn progress(job: &Instance) -> Progress {
    match job.u32("JobState") {
        Some(7) if matches!(job.u32("ErrorCode"), None | Some(0)) => Progress::Done,
        Some(32768) => Progress::Warnings,
        Some(7..=11) => Progress::Failed,
        // New, starting, running, suspended, shutting down; anything unknown is waited for within the limit.
        _ => Progress::Working,
    }
}

impl Host {
    /// Calls a method of a service and waits for its job, where it starts one.
    pub(super) async fn call(
        &self,
        service: &'static str,
        method: &str,
        parameters: Properties,
    ) -> Result<Done, Error> {
        let service = self.service(service).await?;
        self.call_on(&service, method, parameters).await
    }

    /// Calls a method of any object and waits for its job, where it starts one.
    pub(super) async fn call_on(
        &self,
        object: &Epr,
        method: &str,
        parameters: Properties,
    ) -> Result<Done, Error> {
        let name = format!("{}.{method}", object.class());
        let outputs = self.session.invoke(object, method, parameters).await?;
        self.finish(name, outputs).await
    }

    /// Judges what a method returned and waits for its job, where it started one.
    pub(super) async fn finish(&self, method: String, outputs: Properties) -> Result<Done, Error> {
        match outputs.u32("ReturnValue") {
            Some(code::DONE) => Ok(Done {
                outputs,
                job: None,
                warning: None,
            }),
            Some(code::JOB_STARTED) => {
                let nonsense = || Error::Nonsense {
                    doing: method.clone(),
                    what: "it names no job".into(),
                };
                let job = outputs.epr("Job").cloned().ok_or_else(nonsense)?;
                let warning = self.wait_for_job(&method, &job).await?;
                Ok(Done {
                    outputs,
                    job: Some(job),
                    warning,
                })
            }
            Some(code) => Err(Error::Return { method, code }),
            None => Err(Error::Nonsense {
                doing: method,
                what: "it has no return value".into(),
            }),
        }
    }

    /// Waits for the end of a job and returns what it warned of.
    async fn wait_for_job(&self, method: &str, job: &Epr) -> Result<Option<String>, Error> {
        let start = Instant::now();
        let mut suspended: Option<Instant> = None;
        let mut pause = self.limits.first_poll;
        let mut last_seen = start;
        let mut asked_to_end = false;
        loop {
            match self.session.get(job).await {
                Ok(state) => {
                    last_seen = Instant::now();
                    let since = *suspended.get_or_insert(last_seen);
                    if state.u32("JobState") != Some(SUSPENDED) {
                        suspended = None;
                    } else if since.elapsed() > self.limits.settle {
                        return Err(Error::StillBusy {
                            what: format!("the job of {method} is still suspended on the host"),
                            waited: since.elapsed(),
                        });
                    }
                    match progress(&state) {
                        Progress::Working => {
                            if self.cancel.is_cancelled() && !asked_to_end {
                                asked_to_end = true;
                                self.end_job(method, job, &state).await;
                            }
                        }
                        Progress::Done => return Ok(None),
                        Progress::Warnings => {
                            let text = self.error_text(job, &state).await;
                            tracing::warn!("{method} completed with warnings: {text}");
                            return Ok(Some(text));
                        }
                        Progress::Failed if asked_to_end => {
                            return Err(Error::Cancelled {
                                method: method.to_owned(),
                            });
                        }
                        Progress::Failed => {
                            let text = self.error_text(job, &state).await;
                            let code = state
                                .u32("ErrorCode")
                                .filter(|&code| code != 0)
                                .unwrap_or(code::FAILED);
                            return Err(Error::Job {
                                method: method.to_owned(),
                                code,
                                text,
                            });
                        }
                    }
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(Error::JobGone {
                        method: method.to_owned(),
                    });
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::Retry | ErrorKind::ResultUnknown) =>
                {
                    if last_seen.elapsed() > OUT_OF_REACH {
                        return Err(Error::JobLost {
                            method: method.to_owned(),
                            source: Box::new(error),
                        });
                    }
                }
                Err(error) => {
                    return Err(Error::JobLost {
                        method: method.to_owned(),
                        source: Box::new(error),
                    });
                }
            }
            if start.elapsed() > self.limits.job {
                return Err(Error::JobTimeout {
                    method: method.to_owned(),
                    waited: start.elapsed(),
                });
            }
            // A cancelled wait goes on, to see how the job ends; the pause then is not cut short again.
            self.pause(&mut pause, !asked_to_end).await;
        }
    }

    /// Waits between two looks, longer each time; ends early when cancelled, where that is wished.
    pub(super) async fn pause(&self, pause: &mut Duration, cut_short: bool) {
        let sleep = tokio::time::sleep(*pause);
        *pause = (*pause * 2).min(self.limits.last_poll);
        if !cut_short || self.cancel.is_cancelled() {
            return sleep.await;
        }
        tokio::select! {
            () = sleep => {}
            () = self.cancel.cancelled() => {}
        }
    }

    async fn end_job(&self, method: &str, job: &Epr, state: &Instance) {
        if state.bool("Cancellable") != Some(true) {
            tracing::info!("{method} cannot be cancelled on the host; waiting for its end");
            return;
        }
        // 4 = terminate.
        let parameters = Properties::new().with("RequestedState", 4_u16);
        if let Err(error) = self
            .session
            .invoke(job, "RequestStateChange", parameters)
            .await
        {
            tracing::warn!("failed to cancel {method} on the host: {error}");
        }
    }

    /// Everything the host says about a failed job.
    async fn error_text(&self, job: &Epr, state: &Instance) -> String {
        let mut said: Vec<String> = ["ErrorDescription", "ErrorSummaryDescription"]
            .into_iter()
            .filter_map(|name| state.text(name).map(str::to_owned))
            .collect();
        match self
            .session
            .invoke_reading(job, "GetErrorEx", Properties::new())
            .await
        {
            Ok(outputs) => {
                let errors = outputs
                    .items("Errors")
                    .iter()
                    .filter_map(wsman::Value::to_instance);
                said.extend(errors.filter_map(|error| error.text("Message").map(str::to_owned)));
            }
            Err(error) => tracing::debug!("the host gives no details of the failed job: {error}"),
        }
        let mut texts: Vec<&str> = Vec::new();
        for text in said.iter().map(|text| text.trim()) {
            if !text.is_empty() && !texts.iter().any(|known| known.contains(text)) {
                texts.push(text);
            }
        }
        if texts.is_empty() {
            texts.push(
                state
                    .text("JobStatus")
                    .unwrap_or("the host gives no reason"),
            );
        }
        texts.join("; ")
    }

    /// Waits until it is worth looking again for the effect of a call whose answer was lost. Gives the call's error
    /// once the host works on no job any more, or after [`super::Limits::settle`].
    pub(super) async fn keep_looking(&self, mut lost: LostAnswer) -> Result<LostAnswer, Error> {
        let given_up = lost.start.elapsed() > self.limits.settle || self.cancel.is_cancelled();
        if lost.quiet_looks == 2 || given_up {
            return Err(lost.error);
        }
        let jobs = match self.query("SELECT * FROM Msvm_ConcreteJob").await {
            Ok(jobs) => jobs,
            Err(error) => {
                tracing::debug!("cannot see whether the host still works: {error}");
                return Err(lost.error);
            }
        };
        let working = jobs
            .iter()
            .any(|job| matches!(progress(job), Progress::Working));
        lost.quiet_looks = if working { 0 } else { lost.quiet_looks + 1 };
        self.pause(&mut lost.pause, true).await;
        Ok(lost)
    }

    /// Calls a method of the management service that sets something to a value: a call whose answer was lost is made
    /// again once the host is quiet, as twice is the same as once.
    pub(super) async fn call_setting(
        &self,
        method: &str,
        parameters: Properties,
    ) -> Result<(), Error> {
        match self
            .call(objects::MANAGEMENT, method, parameters.clone())
            .await
        {
            Err(error) if error.kind() == ErrorKind::ResultUnknown => {
                self.wait_quiet(error).await;
                self.call(objects::MANAGEMENT, method, parameters)
                    .await
                    .map(drop)
            }
            result => result.map(drop),
        }
    }

    /// Waits until the host works on no job any more, so that what a lost answer left open has happened or will not;
    /// returns the call's error.
    pub(super) async fn wait_quiet(&self, error: Error) -> Error {
        let mut lost = self.lost(error);
        loop {
            match self.keep_looking(lost).await {
                Ok(more) => lost = more,
                Err(error) => return error,
            }
        }
    }

    /// Begins the look for the effect of a call whose answer was lost.
    pub(super) fn lost(&self, error: Error) -> LostAnswer {
        tracing::warn!("looking for the effect, as the result is unknown: {error}");
        LostAnswer {
            error,
            start: Instant::now(),
            pause: self.limits.first_poll,
            quiet_looks: 0,
        }
    }

    /// Returns the objects of a class that a job dealt with.
    pub(super) async fn affected_by(&self, job: &Epr, class: &str) -> Result<Vec<Instance>, Error> {
        let id = job.get("InstanceID").unwrap_or_default();
        let path = ObjectPath::new("Msvm_ConcreteJob").with("InstanceID", id);
        self.session
            .query(
                uri::NS_VIRTUALIZATION,
                &association_query(&path, "Msvm_AffectedJobElement", Some(class)),
            )
            .await
    }

    /// Returns the object a method made: the out-parameter where it is set, else by association with the job.
    pub(super) async fn result_of(
        &self,
        done: &Done,
        output: &str,
        class: &str,
    ) -> Result<Option<Instance>, Error> {
        Ok(self
            .results_of(done, output, class)
            .await?
            .into_iter()
            .next())
    }

    /// Returns the objects of a class that a method dealt with: the out-parameter where it is set, else by association
    /// with the job. None where the association is gone with the job: the caller compares before and after.
    pub(super) async fn results_of(
        &self,
        done: &Done,
        output: &str,
        class: &str,
    ) -> Result<Vec<Instance>, Error> {
        if let Some(epr) = done.outputs.epr(output) {
            return self.session.get(epr).await.map(|object| vec![object]);
        }
        let Some(job) = &done.job else {
            return Ok(Vec::new());
        };
        match self.affected_by(job, class).await {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Refused) => {
                Ok(Vec::new())
            }
            result => result,
        }
    }

    /// Returns the objects associated with one object.
    pub(super) async fn associated(
        &self,
        object: &Epr,
        association: &str,
        class: Option<&str>,
    ) -> Result<Vec<Instance>, Error> {
        self.session
            .query(
                uri::NS_VIRTUALIZATION,
                &association_query(&object.to_path(), association, class),
            )
            .await
    }

    /// Runs a WQL query in the Hyper-V namespace.
    pub(super) async fn query(&self, wql: &str) -> Result<Vec<Instance>, Error> {
        self.session.query(uri::NS_VIRTUALIZATION, wql).await
    }

    /// Gives a VM or checkpoint another display name.
    pub(super) async fn name_settings(&self, instance_id: &str, name: &str) -> Result<(), Error> {
        let change = Instance::new(objects::SETTINGS)
            .with("InstanceID", instance_id)
            .with("ElementName", name);
        self.modify_settings(&change).await
    }

    /// Calls ModifySystemSettings with the properties to change.
    pub(super) async fn modify_settings(&self, settings: &Instance) -> Result<(), Error> {
        let parameters = Properties::new().with("SystemSettings", wsman::Value::embedded(settings));
        self.call_setting("ModifySystemSettings", parameters).await
    }
}
