//! Requests: what a client asks.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::{Instance, MessageError, Properties, Selectors, format, uri};

/// The header of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The endpoint's URL.
    pub to: String,
    /// Class or namespace; see [`uri::class_uri`] and [`uri::query_uri`].
    pub resource_uri: String,
    /// `uuid:...`; the reply names it.
    pub message_id: String,
    /// Largest reply the client takes, in bytes; the service's limit where absent.
    pub max_envelope_bytes: Option<u32>,
    /// How long the service may work on it; its own default where absent.
    pub timeout: Option<Duration>,
    /// Language of messages, such as `en-US`.
    pub locale: Option<String>,
    /// Keys of the object.
    pub selectors: Selectors,
    /// Options by name.
    pub options: BTreeMap<String, String>,
}

/// A filter of an enumeration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The language; see [`uri::DIALECT_WQL`].
    pub dialect: String,
    /// The query. For dialects whose filter is XML (selectors, associations) this is the text inside, for refusals.
    pub text: String,
}

/// What an enumeration gives for each object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EnumerationMode {
    /// The object.
    #[default]
    Object,
    /// A reference.
    Epr,
    /// Both.
    ObjectAndEpr,
}

/// Start of an enumeration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enumerate {
    /// Which objects; all of the class where absent.
    pub filter: Option<Filter>,
    /// What to give for each.
    pub mode: EnumerationMode,
    /// Whether the first batch may come with the reply.
    pub optimize: bool,
    /// Size of that batch.
    pub max_elements: Option<u32>,
}

impl Enumerate {
    /// Returns an optimised WQL query with batches of `max_elements`.
    pub fn wql(query: impl Into<String>, max_elements: u32) -> Self {
        Self {
            filter: Some(Filter {
                dialect: uri::DIALECT_WQL.into(),
                text: query.into(),
            }),
            mode: EnumerationMode::Object,
            optimize: true,
            max_elements: Some(max_elements),
        }
    }
}

/// A further batch of an enumeration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pull {
    /// The newest context.
    pub context: String,
    /// Size of the batch; one where absent.
    pub max_elements: Option<u32>,
    /// Size of the batch in characters.
    pub max_characters: Option<u32>,
    /// How long to wait for it.
    pub max_time: Option<Duration>,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Who are you? Has no header.
    Identify,
    /// Start an enumeration.
    Enumerate(Enumerate),
    /// The next batch.
    Pull(Pull),
    /// End an enumeration early.
    Release {
        /// The newest context.
        context: String,
    },
    /// Read one object.
    Get,
    /// Change one object.
    Put(Instance),
    /// Delete one object.
    Delete,
    /// Call a method.
    Invoke {
        /// Its name.
        method: String,
        /// Its in-parameters.
        parameters: Properties,
    },
}

/// A request.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Its header; empty for Identify.
    pub header: Header,
    /// What is asked.
    pub operation: Operation,
}

impl Request {
    /// Returns the value of `a:Action`; empty for Identify.
    #[must_use]
    pub fn action(&self) -> String {
        match &self.operation {
            Operation::Identify => String::new(),
            Operation::Enumerate(_) => uri::ACTION_ENUMERATE.into(),
            Operation::Pull(_) => uri::ACTION_PULL.into(),
            Operation::Release { .. } => uri::ACTION_RELEASE.into(),
            Operation::Get => uri::ACTION_GET.into(),
            Operation::Put(_) => uri::ACTION_PUT.into(),
            Operation::Delete => uri::ACTION_DELETE.into(),
            Operation::Invoke { method, .. } => {
                let class_uri = self.header.resource_uri.split('?').next();
                format!("{}/{method}", class_uri.unwrap_or_default())
            }
        }
    }

    /// Writes the envelope.
    #[must_use]
    pub fn to_xml(&self) -> String {
        format::write_request(self)
    }

    /// Reads an envelope. What is wrong with a request that cannot be read is in the error, with the fault to
    /// answer in [`MessageError::to_fault`].
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        format::read_request(bytes)
    }

    /// Returns the `a:MessageID` of an envelope that is otherwise no request, so that the fault can name it.
    #[must_use]
    pub fn message_id(bytes: &[u8]) -> Option<String> {
        format::read_message_id(bytes).ok().flatten()
    }
}
