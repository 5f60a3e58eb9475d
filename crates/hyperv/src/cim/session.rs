//! A session of typed requests: query, get, invoke, delete.
//!
//! Reading requests are repeated after a broken connection, a busy service or an expired enumeration; a method call is
//! repeated only when it certainly has not run. The envelope size asked for grows when a reply does not fit.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use uuid::Uuid;
use wsman::{
    Enumerate, EnumerationMode, Epr, Fault, FaultClass, Header, Instance, Item, Items, Operation,
    Properties, Pull, Reply, Request, Response, Selectors, uri,
};

use super::transport::{Endpoint, Transport};
use crate::{Error, ErrorKind};

/// Envelope size asked for at first: what the oldest services give.
const FIRST_ENVELOPE_BYTES: u32 = 153_600;
const LAST_ENVELOPE_BYTES: u32 = 16 << 20;
/// Objects per batch.
const BATCH: u32 = 200;
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
        let items = self
            .enumerate(namespace, wql, EnumerationMode::Object)
            .await?;
        Ok(items
            .into_iter()
            .filter_map(|item| match item {
                Item::Object(instance) | Item::Both(instance, _) => Some(instance),
                Item::Epr(_) => None,
            })
            .collect())
    }

    /// Returns references to the objects a WQL query gives.
    pub async fn query_eprs(&self, namespace: &str, wql: &str) -> Result<Vec<Epr>, Error> {
        let items = self.enumerate(namespace, wql, EnumerationMode::Epr).await?;
        Ok(items
            .into_iter()
            .filter_map(|item| match item {
                Item::Epr(epr) | Item::Both(_, epr) => Some(epr),
                Item::Object(_) => None,
            })
            .collect())
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

    async fn enumerate(
        &self,
        namespace: &str,
        wql: &str,
        mode: EnumerationMode,
    ) -> Result<Vec<Item>, Error> {
        let doing = format!("query {wql:?} in {namespace}");
        let mut tries = 0;
        loop {
            tries += 1;
            let error = match self.enumerate_once(&doing, namespace, wql, mode).await {
                Ok(items) => return Ok(items),
                Err(error) => error,
            };
            let again = match error.fault_class() {
                Some(FaultClass::EncodingLimit) => self.grow_envelope(),
                Some(FaultClass::InvalidContext) => tries < TRIES,
                _ => false,
            };
            if !again {
                return Err(error);
            }
            tracing::debug!(%doing, "starting an enumeration again: {error}");
        }
    }

    async fn enumerate_once(
        &self,
        doing: &str,
        namespace: &str,
        wql: &str,
        mode: EnumerationMode,
    ) -> Result<Vec<Item>, Error> {
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
        let mut items = Vec::new();
        let mut empty = 0;
        loop {
            let Items {
                context,
                items: new,
                end,
            } = batch;
            empty = if new.is_empty() { empty + 1 } else { 0 };
            items.extend(new);
            if end {
                return Ok(items);
            }
            let nonsense = |what: &str| Error::Nonsense {
                doing: doing.to_owned(),
                what: what.to_owned(),
            };
            let context =
                context.ok_or_else(|| nonsense("the enumeration neither ends nor goes on"))?;
            if items.len() > MAX_OBJECTS || empty > MAX_EMPTY_BATCHES {
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
        let bytes = self.transport.send(doing, request.to_xml()).await?;
        let response = Response::parse(&bytes).map_err(|source| Error::Message {
            doing: doing.to_owned(),
            source,
        })?;
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
        Ok(response.reply)
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
