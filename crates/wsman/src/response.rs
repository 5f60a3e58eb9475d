//! Responses: what a service answers.

use crate::{Epr, Fault, Instance, MessageError, Properties, Request, format};

/// One result of an enumeration.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// The object.
    Object(Instance),
    /// A reference.
    Epr(Epr),
    /// Both.
    Both(Instance, Epr),
}

/// A batch of an enumeration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Items {
    /// The context for the next Pull; absent at the end.
    pub context: Option<String>,
    /// The results.
    pub items: Vec<Item>,
    /// Whether these were the last.
    pub end: bool,
}

/// The body of a response.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Answer of Identify.
    Identify {
        /// Such as `Microsoft Corporation`.
        vendor: String,
        /// Such as `OS: 10.0.20348 SP: 0.0 Stack: 3.0`.
        version: String,
    },
    /// Answer of Enumerate. `items` is `None` where no optimisation was asked for (or, when read, given).
    Enumerate {
        /// The first batch, or only its context.
        batch: Items,
        /// Whether the batch is part of the answer (`w:Items`).
        optimized: bool,
    },
    /// Answer of Pull.
    Pull(Items),
    /// Answer of Get and Put: the object.
    Object(Instance),
    /// Answer of Release and Delete: nothing.
    Empty,
    /// Answer of a method.
    Invoke {
        /// Its name.
        method: String,
        /// Out-parameters, `ReturnValue` among them.
        outputs: Properties,
    },
    /// It failed.
    Fault(Box<Fault>),
}

/// A response.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    /// `a:Action`; empty for Identify.
    pub action: String,
    /// `uuid:...`
    pub message_id: String,
    /// The request's message id.
    pub relates_to: Option<String>,
    /// CIM namespace of the objects inside, such as `root/virtualization/v2`.
    pub namespace: String,
    /// Class the method belongs to (only for [`Reply::Invoke`]).
    pub class: String,
    /// The body.
    pub reply: Reply,
}

impl Response {
    /// Returns the answer to a request. `namespace` is that of the objects inside (a Pull does not say it).
    #[must_use]
    pub fn to(
        request: &Request,
        message_id: impl Into<String>,
        namespace: &str,
        reply: Reply,
    ) -> Self {
        let class = crate::uri::split_class_uri(&request.header.resource_uri)
            .map_or("", |(_, class)| class);
        let action = match &reply {
            Reply::Fault(fault) => fault.action().to_owned(),
            Reply::Identify { .. } => String::new(),
            Reply::Enumerate { .. }
            | Reply::Pull(_)
            | Reply::Object(_)
            | Reply::Empty
            | Reply::Invoke { .. } => {
                format!("{}Response", request.action())
            }
        };
        Self {
            action,
            message_id: message_id.into(),
            relates_to: (!request.header.message_id.is_empty())
                .then(|| request.header.message_id.clone()),
            namespace: namespace.to_owned(),
            class: class.to_owned(),
            reply,
        }
    }

    /// Writes the envelope.
    #[must_use]
    pub fn to_xml(&self) -> String {
        format::write_response(self)
    }

    /// Reads an envelope.
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        format::read_response(bytes)
    }
}
