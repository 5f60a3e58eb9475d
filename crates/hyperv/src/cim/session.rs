//! A session of typed requests: query, get, invoke, delete.
//!
//! Reading requests are repeated after a broken connection, a busy service or an expired enumeration; a method call is
//! repeated only when it certainly has not run. The envelope size asked for grows when a reply does not fit, and with the
//! number of batches an enumeration takes.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use uuid::Uuid;
use wsman::{
    Enumerate, EnumerationMode, Epr, Fault, FaultClass, Header, Instance, Item, Items, Operation,
    Properties, Pull, Reply, Request, Response, Selectors, uri,
};

use super::endpoint::Endpoint;
use super::record::{Outcome, Recorder};
use super::transport::Transport;
use crate::{Error, ErrorKind};

/// Envelope size asked for at first: what the oldest services give.
const FIRST_ENVELOPE_BYTES: u32 = 153_600;
const LAST_ENVELOPE_BYTES: u32 = 16 << 20;
/// Largest batch asked for: what an enumeration holds at once beside what is kept of its objects.
const BATCH_ENVELOPE_BYTES: u32 = 8 << 20;
/// Objects per batch: the most a service gives. The size of the envelope is what bounds a batch.
const BATCH: u32 = 32_000;
/// Objects of one query.
const MAX_OBJECTS: usize = 1 << 20;
/// Batches without an object and without an end that are taken for a slow provider.
const MAX_EMPTY_BATCHES: u32 = 100;
/// How often a reading request is tried.
const TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// A connection to the CIM server of a host.
pub struct CimSession {
    transport: Transport,
    operation_timeout: Duration,
    envelope_bytes: AtomicU32,
    /// Largest envelope asked for without need: batches grow to it. It comes down where the service refuses.
    batch_bytes: AtomicU32,
    /// Largest envelope asked for in a request that was answered.
    proven_bytes: AtomicU32,
    recorder: OnceLock<Arc<Recorder>>,
}

impl fmt::Debug for CimSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CimSession")
            .field("url", &self.transport.url())
            .finish_non_exhaustive()
    }
}

/// What a service says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Such as `Microsoft Corporation`.
    pub vendor: String,
    /// Such as `OS: 10.0.20348 SP: 0.0 Stack: 3.0`.
    pub version: String,
}

impl CimSession {
    /// Makes a session. Nothing is sent yet.
    pub fn new(endpoint: &Endpoint) -> Result<Self, Error> {
        Ok(Self {
            transport: Transport::new(endpoint)?,
            operation_timeout: endpoint.operation_timeout,
            envelope_bytes: AtomicU32::new(FIRST_ENVELOPE_BYTES),
            batch_bytes: AtomicU32::new(BATCH_ENVELOPE_BYTES),
            proven_bytes: AtomicU32::new(0),
            recorder: OnceLock::new(),
        })
    }

    /// Returns the endpoint's address.
    #[must_use]
    pub fn url(&self) -> &str {
        self.transport.url()
    }

    /// Returns the user name.
    #[must_use]
    pub fn user(&self) -> &str {
        self.transport.user()
    }

    /// Records every exchange from now on; a second recorder is not taken. The host's name and the user's are hidden.
    pub fn record(&self, recorder: Arc<Recorder>) {
        let authority = self.url().split("://").last().unwrap_or_default();
        let host = authority.split(['/', ':']).next().unwrap_or_default();
        for private in [
            host,
            host.split('.').next().unwrap_or_default(),
            self.user(),
        ] {
            recorder.hide(private);
        }
        let _ = self.recorder.set(recorder);
    }

    /// Asks who the service is: whether it is WinRM and the log-in works.
    pub async fn identify(&self) -> Result<Identity, Error> {
        let doing = "Identify";
        let request = Request {
            header: Header::default(),
            operation: Operation::Identify,
        };
        let reply = self.read(doing, request).await?;
        let Reply::Identify { vendor, version } = reply else {
            return Err(unexpected(doing, &reply));
        };
        Ok(Identity { vendor, version })
    }

    /// Returns the objects a WQL query gives.
    pub async fn query(&self, namespace: &str, wql: &str) -> Result<Vec<Instance>, Error> {
        self.query_map(namespace, wql, Some).await
    }

    /// Returns what `keep` makes of the objects a WQL query gives, as they arrive: of the objects themselves only one
    /// batch is held at a time. An enumeration that has to begin again calls it again for objects it has seen.
    pub async fn query_map<T>(
        &self,
        namespace: &str,
        wql: &str,
        mut keep: impl FnMut(Instance) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        self.enumerate(
            namespace,
            wql,
            EnumerationMode::Object,
            &mut |item| match item {
                Item::Object(instance) | Item::Both(instance, _) => keep(instance),
                Item::Epr(_) => None,
            },
        )
        .await
    }

    /// Returns references to the objects a WQL query gives.
    pub async fn query_eprs(&self, namespace: &str, wql: &str) -> Result<Vec<Epr>, Error> {
        self.enumerate(
            namespace,
            wql,
            EnumerationMode::Epr,
            &mut |item| match item {
                Item::Epr(epr) | Item::Both(_, epr) => Some(epr),
                Item::Object(_) => None,
            },
        )
        .await
    }

    /// Reads one object.
    pub async fn get(&self, object: &Epr) -> Result<Instance, Error> {
        let doing = format!("reading {}", object.to_path().relative());
        let reply = self.read(&doing, request(object, Operation::Get)).await?;
        let Reply::Object(instance) = reply else {
            return Err(unexpected(&doing, &reply));
        };
        Ok(instance)
    }

    /// Deletes one object.
    pub async fn delete(&self, object: &Epr) -> Result<(), Error> {
        let doing = format!("deleting {}", object.to_path().relative());
        let reply = self
            .change(&doing, request(object, Operation::Delete))
            .await?;
        if reply == Reply::Empty {
            Ok(())
        } else {
            Err(unexpected(&doing, &reply))
        }
    }

    /// Calls a method that changes something and returns its out-parameters, `ReturnValue` among them.
    ///
    /// Dropped half-way, the method may or may not run.
    pub async fn invoke(
        &self,
        object: &Epr,
        method: &str,
        parameters: Properties,
    ) -> Result<Properties, Error> {
        let doing = format!("{}.{method}", object.class());
        let operation = Operation::Invoke {
            method: method.to_owned(),
            parameters,
        };
        outputs(
            &doing,
            self.change(&doing, request(object, operation)).await?,
        )
    }

    /// Calls a method that only reads: it is repeated like a query. A reply that does not fit is the caller's to
    /// handle, as it can ask for less.
    pub async fn invoke_reading(
        &self,
        object: &Epr,
        method: &str,
        parameters: Properties,
    ) -> Result<Properties, Error> {
        let doing = format!("{}.{method}", object.class());
        let operation = Operation::Invoke {
            method: method.to_owned(),
            parameters,
        };
        outputs(
            &doing,
            self.read_sized(&doing, request(object, operation), false)
                .await?,
        )
    }

    async fn enumerate<T>(
        &self,
        namespace: &str,
        wql: &str,
        mode: EnumerationMode,
        keep: &mut impl FnMut(Item) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let doing = format!("query {wql:?} in {namespace}");
        let mut tries = 0;
        loop {
            tries += 1;
            let result = self
                .enumerate_once(&doing, namespace, wql, mode, &mut *keep)
                .await;
            let error = match result {
                Ok(items) => return Ok(items),
                Err(error) => error,
            };
            let again = match error.fault_class() {
                Some(FaultClass::EncodingLimit) => self.shrink_batches() || self.grow_envelope(),
                Some(FaultClass::InvalidContext) => tries < TRIES,
                _ => false,
            };
            if !again {
                return Err(error);
            }
            tracing::debug!(%doing, "starting an enumeration again: {error}");
        }
    }

    async fn enumerate_once<T>(
        &self,
        doing: &str,
        namespace: &str,
        wql: &str,
        mode: EnumerationMode,
        keep: &mut impl FnMut(Item) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let resource_uri = uri::query_uri(namespace);
        let with_header = |operation| Request {
            header: Header {
                resource_uri: resource_uri.clone(),
                ..Header::default()
            },
            operation,
        };
        let start = Enumerate {
            mode,
            ..Enumerate::wql(wql, BATCH)
        };
        let reply = self
            .read_sized(doing, with_header(Operation::Enumerate(start)), false)
            .await?;
        let Reply::Enumerate { mut batch, .. } = reply else {
            return Err(unexpected(doing, &reply));
        };
        let mut kept = Vec::new();
        let (mut seen, mut empty) = (0, 0);
        loop {
            let Items {
                context,
                items: new,
                end,
            } = batch;
            empty = if new.is_empty() { empty + 1 } else { 0 };
            seen += new.len();
            let crowded = new.len() > 1;
            kept.extend(new.into_iter().filter_map(&mut *keep));
            if end {
                return Ok(kept);
            }
            // A service that gives one object at a time does so whatever the size.
            if crowded {
                self.grow_batches();
            }
            let nonsense = |what: &str| Error::Nonsense {
                doing: doing.to_owned(),
                what: what.to_owned(),
            };
            let context =
                context.ok_or_else(|| nonsense("the enumeration neither ends nor goes on"))?;
            if seen > MAX_OBJECTS || empty > MAX_EMPTY_BATCHES {
                return Err(nonsense("the enumeration does not end"));
            }
            batch = self.pull(doing, &with_header, context).await?;
        }
    }

    async fn pull(
        &self,
        doing: &str,
        with_header: &impl Fn(Operation) -> Request,
        context: String,
    ) -> Result<Items, Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            let pull = Pull {
                context: context.clone(),
                max_elements: Some(BATCH),
                ..Pull::default()
            };
            // A Pull moves the enumeration on, so it is not simply repeated: a lost reply means to start again.
            return match self
                .exchange(doing, with_header(Operation::Pull(pull)))
                .await
            {
                Ok(Reply::Pull(batch)) => Ok(batch),
                Ok(other) => Err(unexpected(doing, &other)),
                // Out of time only says that no object was ready; the context stays good.
                Err(error)
                    if error.fault_class() == Some(FaultClass::ResultUnknown) && tries < TRIES =>
                {
                    continue;
                }
                Err(Error::Broken { .. }) => {
                    let fault = Fault::new(
                        wsman::Subcode::InvalidEnumerationContext,
                        "the connection broke during a Pull",
                    );
                    Err(Error::Fault {
                        doing: doing.to_owned(),
                        source: Box::new(fault),
                    })
                }
                Err(error) => Err(error),
            };
        }
    }

    /// Sends a request that changes nothing, again where that helps, asking for larger replies where needed.
    async fn read(&self, doing: &str, request: Request) -> Result<Reply, Error> {
        self.read_sized(doing, request, true).await
    }

    async fn read_sized(&self, doing: &str, request: Request, grow: bool) -> Result<Reply, Error> {
        let mut pause = FIRST_PAUSE;
        let mut tries = 1;
        loop {
            let error = match self.exchange(doing, request.clone()).await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            if grow
                && error.fault_class() == Some(FaultClass::EncodingLimit)
                && self.grow_envelope()
            {
                continue;
            }
            if tries >= TRIES
                || !matches!(error.kind(), ErrorKind::Retry | ErrorKind::ResultUnknown)
            {
                return Err(error);
            }
            tracing::debug!(%doing, tries, "trying again: {error}");
            tries += 1;
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    /// Sends a request that changes something, again only where the host has certainly not begun.
    async fn change(&self, doing: &str, request: Request) -> Result<Reply, Error> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..TRIES {
            match self.exchange(doing, request.clone()).await {
                Err(error) if error.kind() == ErrorKind::Retry => {
                    tracing::debug!(%doing, "trying again: {error}");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                result => return result,
            }
        }
        self.exchange(doing, request).await
    }

    /// Sends a request once.
    async fn exchange(&self, doing: &str, mut request: Request) -> Result<Reply, Error> {
        if request.operation != Operation::Identify {
            let header = &mut request.header;
            self.transport.url().clone_into(&mut header.to);
            header.message_id = format!("uuid:{}", Uuid::new_v4().hyphenated())
                .to_uppercase()
                .replacen("UUID", "uuid", 1);
            header.max_envelope_bytes = Some(self.envelope_bytes.load(Ordering::Relaxed));
            header.timeout = Some(self.operation_timeout);
            header.locale = Some("en-US".into());
        }
        let message_id = request.header.message_id.clone();
        let asked_bytes = request.header.max_envelope_bytes.unwrap_or(0);
        let response = self.send(doing, &request).await?;
        if let Reply::Fault(fault) = response.reply {
            return Err(Error::Fault {
                doing: doing.to_owned(),
                source: fault,
            });
        }
        if response
            .relates_to
            .as_ref()
            .is_some_and(|id| !id.eq_ignore_ascii_case(&message_id))
        {
            let what = "it belongs to another request".to_owned();
            return Err(Error::Nonsense {
                doing: doing.to_owned(),
                what,
            });
        }
        self.proven_bytes.fetch_max(asked_bytes, Ordering::Relaxed);
        Ok(response.reply)
    }

    /// Asks for the largest batches from now on, as an enumeration takes more than one: a service that has a lower limit
    /// gives what fits into that.
    fn grow_batches(&self) {
        let limit = self.batch_bytes.load(Ordering::Relaxed);
        let before = self.envelope_bytes.fetch_max(limit, Ordering::Relaxed);
        if before < limit {
            tracing::debug!("asking for batches of {limit} instead of {before} bytes");
        }
    }

    /// Takes back a size that was asked for only to save requests; `false` where none was. [U] A service is to give what
    /// fits its own limit when it is asked for more; one that refuses instead is met this way.
    fn shrink_batches(&self) -> bool {
        let proven = self.proven_bytes.load(Ordering::Relaxed);
        let asked = self.envelope_bytes.load(Ordering::Relaxed);
        let shrinks = 0 < proven && proven < asked.min(self.batch_bytes.load(Ordering::Relaxed));
        if shrinks {
            self.batch_bytes.store(proven, Ordering::Relaxed);
            self.envelope_bytes.store(proven, Ordering::Relaxed);
        }
        shrinks
    }

    /// Sends an envelope and reads the answer, recording both.
    async fn send(&self, doing: &str, request: &Request) -> Result<Response, Error> {
        let envelope = request.to_xml();
        let recorder = self.recorder.get();
        let sent = recorder.map(|_| envelope.clone()).unwrap_or_default();
        let begun = Instant::now();
        let bytes = match self.transport.send(doing, envelope).await {
            Ok(bytes) => bytes,
            Err(error) => {
                if let Some(recorder) = recorder {
                    recorder.exchange(request, &sent, begun.elapsed(), &Outcome::Failed(&error));
                }
                return Err(error);
            }
        };
        let elapsed = begun.elapsed();
        let response = Response::parse(&bytes);
        if let Some(recorder) = recorder {
            let fault = matches!(
                &response,
                Ok(Response {
                    reply: Reply::Fault(_),
                    ..
                })
            );
            let bytes = bytes.as_slice();
            recorder.exchange(request, &sent, elapsed, &Outcome::Answer { bytes, fault });
        }
        response.map_err(|source| Error::Message {
            doing: doing.to_owned(),
            source,
        })
    }

    /// Doubles the envelope size asked for; `false` where it is at its end.
    fn grow_envelope(&self) -> bool {
        let grow = |bytes: u32| {
            (bytes < LAST_ENVELOPE_BYTES).then(|| bytes.saturating_mul(2).min(LAST_ENVELOPE_BYTES))
        };
        self.envelope_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, grow)
            .is_ok()
    }
}

fn request(object: &Epr, operation: Operation) -> Request {
    let header = Header {
        resource_uri: object.resource_uri.clone(),
        selectors: Selectors(object.selectors.0.clone()),
        ..Header::default()
    };
    Request { header, operation }
}

fn outputs(doing: &str, reply: Reply) -> Result<Properties, Error> {
    let Reply::Invoke { outputs, .. } = reply else {
        return Err(unexpected(doing, &reply));
    };
    Ok(outputs)
}

fn unexpected(doing: &str, reply: &Reply) -> Error {
    let what = match reply {
        Reply::Identify { .. } => "it answers Identify",
        Reply::Enumerate { .. } => "it answers Enumerate",
        Reply::Pull(_) => "it answers Pull",
        Reply::Object(_) => "it is an object",
        Reply::Empty => "it is empty",
        Reply::Invoke { .. } => "it answers a method call",
        Reply::Fault(_) => "it is a fault",
    };
    Error::Nonsense {
        doing: doing.to_owned(),
        what: what.to_owned(),
    }
}
