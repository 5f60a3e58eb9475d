//! WS-Management operations: from request to reply.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use uuid::Uuid;
use wsman::{
    Enumerate, Fault, Header, Items, ObjectPath, Operation, Properties, Pull, Reply, Request,
    Response, Selector, Subcode, hresult, uri,
};

use super::enumeration::{Enumeration, Enumerations, Style, batch};
use super::targets::{
    check_cluster, check_namespace_selector, class_of, namespace_of, need_class, operation_name,
    unsupported,
};
use crate::cim::{Class, Object, Value, has_keys, instance};
use crate::ctl::FaultRule;
use crate::definition::owner_of;
use crate::engine::Engine;
use crate::methods::{self, job_reference};
use crate::objects::{self, Source, scope_of};
use crate::shadow;
use crate::wql::{self, Query};

/// Methods of services that have no out-parameter `Job`.
const WITHOUT_JOB: [&str; 5] = [
    "FindMountedStorageImageInstance",
    "GetDefinitionFileSummaryInformation",
    "GetKeyProtector",
    "GetSizeOfSystemFiles",
    "GetSummaryInformation",
];

/// A host with what its clients have under way.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) engine: Arc<Engine>,
    enumerations: Mutex<Enumerations>,
}

/// What goes back over HTTP.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outgoing {
    Reply {
        status: u16,
        xml: String,
    },
    /// 401, by a fault rule.
    Unauthorized,
    /// The connection breaks, by a fault rule.
    Lost,
}

impl Service {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            enumerations: Mutex::default(),
        }
    }

    /// Answers one request.
    pub(crate) fn answer(&self, body: &[u8]) -> Outgoing {
        let request = match Request::parse(body) {
            Ok(request) => request,
            Err(err) => return self.malformed(&err.to_fault(), body),
        };
        let on = operation_name(&request);
        let on = [on.as_str()];
        let vm = self.vm_of(&request);
        let strikes = |rule| self.engine.fault(rule, &on, vm);
        if strikes(FaultRule::Unauthorized) {
            return Outgoing::Unauthorized;
        }
        if strikes(FaultRule::Busy) {
            return Outgoing::Reply {
                status: 503,
                xml: String::new(),
            };
        }
        if strikes(FaultRule::ConnectionLostBefore) {
            return Outgoing::Lost;
        }
        let slow = strikes(FaultRule::SlowReply);
        let result = match self.refused(&request, &on, vm) {
            Some(fault) => Err(fault.into()),
            None => self.operate(&request, vm),
        };
        if strikes(FaultRule::ConnectionLostAfter) {
            return Outgoing::Lost;
        }
        let in_time = !slow || self.linger(&request);
        let result = if strikes(FaultRule::TimedOut) || !in_time {
            Err(
                Fault::timed_out("the operation took too long; it was carried out all the same")
                    .into(),
            )
        } else {
            result
        };
        self.write(&request, result)
    }

    /// Waits as long as a slow reply takes; false where the request wants its answer before, at that time.
    fn linger(&self, request: &Request) -> bool {
        let slow = Duration::from_millis(self.engine.knobs().slow_millis);
        let timeout = request.header.timeout.filter(|timeout| *timeout < slow);
        self.engine.pause(timeout.unwrap_or(slow));
        timeout.is_none()
    }

    /// Returns the fault that a rule answers with in place of the operation.
    fn refused(&self, request: &Request, on: &[&str], vm: Option<Uuid>) -> Option<Fault> {
        let strikes = |rule| self.engine.fault(rule, on, vm);
        if strikes(FaultRule::AccessDenied) {
            return Some(Fault::access_denied("Access is denied."));
        }
        if strikes(FaultRule::EnvelopeLimit) {
            let fault = Fault::encoding_limit("the reply is larger than the envelope allows");
            return Some(fault);
        }
        if strikes(FaultRule::QuotaLimit) {
            let reason = "the user has too many operations under way";
            return Some(Fault::new(Subcode::QuotaLimit, reason));
        }
        if matches!(request.operation, Operation::Pull(_)) && strikes(FaultRule::StaleContext) {
            let reason = "the enumeration context has expired";
            return Some(Fault::new(Subcode::InvalidEnumerationContext, reason));
        }
        let named = |rule| {
            if let FaultRule::Fault(name) = rule {
                Some(name)
            } else {
                None
            }
        };
        self.engine
            .fault_with(named, on, vm)
            .map(crate::ctl::FaultName::fault)
    }

    fn write(&self, request: &Request, result: Result<(Reply, String), Box<Fault>>) -> Outgoing {
        // An Identify has no addressing, neither way.
        let message_id = || {
            if matches!(request.operation, Operation::Identify) {
                String::new()
            } else {
                format!("uuid:{}", Uuid::new_v4())
            }
        };
        let (reply, namespace) =
            result.unwrap_or_else(|fault| (Reply::Fault(self.signed(*fault)), String::new()));
        let status = match &reply {
            Reply::Fault(fault) => fault.http_status(),
            Reply::Identify { .. }
            | Reply::Enumerate { .. }
            | Reply::Pull(_)
            | Reply::Object(_)
            | Reply::Empty
            | Reply::Invoke { .. } => 200,
        };
        let fits_anyhow = status != 200 || matches!(request.operation, Operation::Identify);
        let xml = Response::to(request, message_id(), &namespace, reply).to_xml();
        if fits_anyhow || xml.len() <= self.envelope_bytes(request) {
            return Outgoing::Reply { status, xml };
        }
        let fault = Fault::encoding_limit(format!("the reply takes {} bytes", xml.len()));
        let status = fault.http_status();
        let xml = Response::to(
            request,
            message_id(),
            &namespace,
            Reply::Fault(self.signed(fault)),
        )
        .to_xml();
        Outgoing::Reply { status, xml }
    }

    /// Returns the fault as this machine says it.
    fn signed(&self, fault: Fault) -> Box<Fault> {
        Box::new(Fault {
            machine: Some(self.engine.name()),
            ..fault
        })
    }

    /// Answers what is no readable request; names it where it has at least an id.
    pub(crate) fn malformed(&self, fault: &Fault, body: &[u8]) -> Outgoing {
        let request = Request {
            header: Header {
                message_id: Request::message_id(body).unwrap_or_default(),
                ..Header::default()
            },
            operation: Operation::Get,
        };
        let reply = Reply::Fault(self.signed(fault.clone()));
        let xml = Response::to(&request, format!("uuid:{}", Uuid::new_v4()), "", reply).to_xml();
        Outgoing::Reply { status: 400, xml }
    }

    fn envelope_bytes(&self, request: &Request) -> usize {
        let own = usize::try_from(self.engine.knobs().envelope_bytes).unwrap_or(usize::MAX);
        let asked = request
            .header
            .max_envelope_bytes
            .and_then(|bytes| usize::try_from(bytes).ok());
        own.min(asked.unwrap_or(usize::MAX))
    }

    fn operate(&self, request: &Request, vm: Option<Uuid>) -> Result<(Reply, String), Box<Fault>> {
        let header = &request.header;
        let is_node = self.engine.read(|state| state.host.cluster.is_some());
        check_cluster(request, is_node)?;
        match &request.operation {
            Operation::Identify => {
                let build = self.engine.read(|state| state.host.build);
                Ok((identify(&format!("10.0.{build}")), String::new()))
            }
            Operation::Enumerate(enumerate) => self.enumerate(request, enumerate),
            Operation::Pull(pull) => self.pull(request, pull),
            Operation::Release { context } => {
                lock(&self.enumerations).take(context, self.idle())?;
                Ok((Reply::Empty, String::new()))
            }
            Operation::Get => {
                let class = class_of(header)?;
                let object = self.one(class, header)?;
                Ok((
                    Reply::Object(instance(&object, self.engine.knobs().manner())),
                    class.namespace.to_owned(),
                ))
            }
            Operation::Invoke { method, parameters } => self.invoke(header, method, parameters, vm),
            Operation::Delete => {
                let class = class_of(header)?;
                let object = self.one(class, header)?;
                if class.name != "Win32_ShadowCopy" {
                    return Err(unsupported("objects of this class cannot be deleted").into());
                }
                self.delete_shadow(&object)?;
                Ok((Reply::Empty, class.namespace.to_owned()))
            }
            Operation::Put(_) => {
                Err(unsupported("objects are changed through methods only").into())
            }
        }
    }

    fn delete_shadow(&self, object: &Object) -> Result<(), Box<Fault>> {
        let id = object
            .get("ID")
            .and_then(Value::as_text)
            .and_then(|id| Uuid::try_parse(id).ok())
            .ok_or_else(|| Fault::not_found("the shadow copy has no id"))?;
        shadow::delete(&self.engine, id).map_err(|failure| {
            Fault::new(Subcode::InternalError, failure.message.clone())
                .with_hresult(hresult::FAILED, failure.message)
                .into()
        })
    }

    fn enumerate(
        &self,
        request: &Request,
        enumerate: &Enumerate,
    ) -> Result<(Reply, String), Box<Fault>> {
        let header = &request.header;
        let (namespace, class) = namespace_of(header)?;
        check_namespace_selector(header, namespace)?;
        let source = match &enumerate.filter {
            Some(filter) if filter.dialect.eq_ignore_ascii_case(uri::DIALECT_WQL) => {
                self.query(namespace, &filter.text)?
            }
            Some(filter) => {
                return Err(Fault::new(
                    Subcode::FilterDialectRequestedUnavailable,
                    format!(
                        "this host does not know the filter dialect {}",
                        filter.dialect
                    ),
                )
                .into());
            }
            None if class == "*" => {
                return Err(Fault::new(
                    Subcode::CannotProcessFilter,
                    "a query is needed where no class is named",
                )
                .into());
            }
            None => Source::of_class(&self.engine, class_of(header)?),
        };
        let mut enumeration = Enumeration::new(source, enumerate.mode, namespace);
        let mut first = Items::default();
        if enumerate.optimize {
            let style = self.style(request);
            first.items = batch(
                &self.engine,
                &mut enumeration,
                request,
                enumerate.max_elements,
                &style,
            )?;
            first.end = enumeration.source.peek(&self.engine).is_none();
        }
        if !first.end {
            first.context = Some(lock(&self.enumerations).put(enumeration, self.idle())?);
        }
        Ok((
            Reply::Enumerate {
                batch: first,
                optimized: enumerate.optimize,
            },
            namespace.to_owned(),
        ))
    }

    fn pull(&self, request: &Request, pull: &Pull) -> Result<(Reply, String), Box<Fault>> {
        let mut enumeration = lock(&self.enumerations).take(&pull.context, self.idle())?;
        let namespace = enumeration.namespace;
        let mut style = self.style(request);
        if let Some(most) = pull
            .max_characters
            .and_then(|most| usize::try_from(most).ok())
        {
            style.envelope_bytes = style.envelope_bytes.min(most);
        }
        let items = batch(
            &self.engine,
            &mut enumeration,
            request,
            pull.max_elements,
            &style,
        )?;
        let end = enumeration.source.peek(&self.engine).is_none();
        let context = if end {
            None
        } else {
            Some(lock(&self.enumerations).put(enumeration, self.idle())?)
        };
        Ok((
            Reply::Pull(Items {
                context,
                items,
                end,
            }),
            namespace.to_owned(),
        ))
    }

    fn idle(&self) -> Duration {
        Duration::from_millis(self.engine.knobs().enumeration_idle_millis)
    }

    fn style(&self, request: &Request) -> Style {
        Style {
            server: self.engine.name(),
            manner: self.engine.knobs().manner(),
            envelope_bytes: self.envelope_bytes(request),
        }
    }

    /// Runs a query.
    fn query(&self, namespace: &'static str, text: &str) -> Result<Source, Box<Fault>> {
        let bad = |what: String| {
            Fault::new(Subcode::CannotProcessFilter, what.clone())
                .with_hresult(hresult::INVALID_QUERY, what)
        };
        match wql::parse(text).map_err(|err| bad(err.to_string()))? {
            Query::Select {
                columns,
                class,
                filter,
            } => {
                let class = need_class(namespace, &class)?;
                if let Some(filter) = &filter {
                    wql::check(filter, class)
                        .map_err(|name| bad(format!("{} has no property {name}", class.name)))?;
                }
                for name in columns.iter().flatten() {
                    if !wql::is_known(name, class) {
                        return Err(bad(format!("{} has no property {name}", class.name)).into());
                    }
                }
                let source = Source::of_class(&self.engine, class);
                Ok(source.select(&self.engine, filter, columns))
            }
            Query::Associators { path, filter } => {
                let path = self.need_object(namespace, &path)?;
                for class in [&filter.assoc_class, &filter.result_class]
                    .into_iter()
                    .flatten()
                {
                    need_class(namespace, class)?;
                }
                let found = objects::associators(&self.engine, &path, &filter);
                Ok(Source::of_objects(found))
            }
            Query::References { path, filter } => {
                let path = self.need_object(namespace, &path)?;
                if let Some(class) = &filter.result_class {
                    need_class(namespace, class)?;
                }
                let found = objects::references(&self.engine, &path, &filter);
                Ok(Source::of_objects(found))
            }
        }
    }

    /// Finds the object a query's path names; returns its full path.
    fn need_object(&self, namespace: &'static str, text: &str) -> Result<ObjectPath, Box<Fault>> {
        let path: ObjectPath = text.parse().map_err(|_| {
            Fault::new(
                Subcode::CannotProcessFilter,
                format!("{text:?} is no object path"),
            )
        })?;
        let class = need_class(namespace, &path.class)?;
        let server = self.engine.name();
        let scope = scope_of(&self.engine, &path.keys);
        let object = objects::instances_in(&self.engine, class, scope)
            .into_iter()
            .find(|object| crate::cim::names(&path, object, &server));
        match object {
            Some(object) => Ok(object.path(&server)),
            None => Err(
                Fault::new(Subcode::InternalError, format!("there is no object {text}"))
                    .with_hresult(hresult::NOT_FOUND, "Not found")
                    .into(),
            ),
        }
    }

    /// Finds the one object that the selectors name.
    fn one(&self, class: &'static Class, header: &Header) -> Result<Object, Box<Fault>> {
        check_namespace_selector(header, class.namespace)?;
        let mut keys = std::collections::BTreeMap::new();
        for (name, selector) in &header.selectors.0 {
            if name.eq_ignore_ascii_case("__cimnamespace") {
                continue;
            }
            if !class.keys().any(|key| key.name.eq_ignore_ascii_case(name)) {
                return Err(Fault::not_found(format!("{name} is no key of {}", class.name)).into());
            }
            let text = match selector {
                Selector::Text(text) => text.clone(),
                Selector::Epr(epr) => epr.to_path().to_string(),
            };
            keys.insert(name.clone(), text);
        }
        let scope = scope_of(&self.engine, &keys);
        let mut found = objects::instances_in(&self.engine, class, scope)
            .into_iter()
            .filter(|object| has_keys(object, &keys));
        match (found.next(), found.next()) {
            (Some(only), None) => Ok(only),
            (Some(_), Some(_)) => Err(Fault::new(
                Subcode::InvalidSelectors,
                format!("the selectors name several objects of {}", class.name),
            )
            .with_detail("InsufficientSelectors")
            .into()),
            (None, _) => {
                Err(Fault::not_found(format!("there is no such object of {}", class.name)).into())
            }
        }
    }

    fn invoke(
        &self,
        header: &Header,
        method: &str,
        parameters: &Properties,
        vm: Option<Uuid>,
    ) -> Result<(Reply, String), Box<Fault>> {
        let class = class_of(header)?;
        // Methods that make objects are called on the class itself.
        let target =
            if header.selectors.texts().next().is_none() && class.name == "Win32_ShadowCopy" {
                Object::new(class)
            } else {
                self.one(class, header)?
            };
        let answer = methods::call(&self.engine, &target, method, parameters, vm)?;
        let mut outputs = Properties::new();
        for (name, value) in answer.outputs {
            outputs.set(name, value);
        }
        match answer.job {
            Some(job) => outputs.set("Job", job_reference(job)),
            None if has_job(class, method) => outputs.set("Job", wsman::Value::Null),
            None => {}
        }
        outputs.set("ReturnValue", answer.code);
        Ok((
            Reply::Invoke {
                method: method.to_owned(),
                outputs,
            },
            class.namespace.to_owned(),
        ))
    }

    /// Returns the VM a request is about, for fault rules: by selectors, else by its references.
    fn vm_of(&self, request: &Request) -> Option<Uuid> {
        let parse = |text: &str| {
            Uuid::try_parse(text)
                .or_else(|_| Uuid::try_parse(owner_of(text)))
                .ok()
        };
        let selectors = &request.header.selectors;
        let mut ids: Vec<Uuid> = ["Name", "SystemName", "InstanceID"]
            .iter()
            .filter_map(|name| selectors.get(name))
            .filter_map(parse)
            .collect();
        if let Operation::Invoke { parameters, .. } = &request.operation {
            for (_, value) in parameters.iter() {
                let eprs = value.items().iter().filter_map(wsman::Value::as_epr);
                let keys = eprs.flat_map(|epr| {
                    ["Name", "VirtualSystemIdentifier", "InstanceID"].map(|key| epr.get(key))
                });
                ids.extend(keys.flatten().filter_map(parse));
            }
            if let Some(path) = parameters.text("Path") {
                let owner = self.engine.read(|state| {
                    state
                        .vms
                        .values()
                        .find(|vm| vm.definitions().any(|d| d.uses_file(path)))
                        .map(|vm| vm.id)
                });
                ids.extend(owner);
            }
        }
        self.engine.read(|state| {
            ids.into_iter().find_map(|id| match state.vms.get(&id) {
                Some(vm) => Some(vm.id),
                None => state
                    .vms
                    .values()
                    .find(|vm| vm.checkpoint(id).is_some())
                    .map(|vm| vm.id),
            })
        })
    }
}

/// Returns whether a method has an out-parameter `Job`.
fn has_job(class: &Class, method: &str) -> bool {
    let of_service = class.name.ends_with("Service") && !WITHOUT_JOB.contains(&method);
    of_service || (class.name == "Msvm_ComputerSystem" && method == "RequestStateChange")
}

fn lock(enumerations: &Mutex<Enumerations>) -> std::sync::MutexGuard<'_, Enumerations> {
    enumerations.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers an Identify without saying what the host is.
pub(crate) fn anonymous_identify(body: &[u8]) -> Option<String> {
    let request = Request::parse(body).ok()?;
    matches!(request.operation, Operation::Identify)
        .then(|| Response::to(&request, "", "", identify("0.0.0")).to_xml())
}

fn identify(version: &str) -> Reply {
    Reply::Identify {
        vendor: "Microsoft Corporation".to_owned(),
        version: format!("OS: {version} SP: 0.0 Stack: 3.0"),
    }
}
