//! Parameters of methods: what they must be, and what they name.

use uuid::Uuid;
use wsman::Epr;

use super::Call;
use crate::cim::{Embedded, V2, find, read_embedded};
use crate::definition::{Definition, owner_of};
use crate::failure::Failure;
use crate::refusals::Refusal;
use crate::state::Vm;

/// Settings of a VM: the active ones, or those of a checkpoint.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) vm: Vm,
    pub(crate) checkpoint: Option<Uuid>,
}

impl Settings {
    /// Returns the settings themselves; nothing where their checkpoint is gone.
    pub(crate) fn definition(&self) -> Option<&Definition> {
        match self.checkpoint {
            None => Some(&self.vm.definition),
            Some(id) => self
                .vm
                .checkpoint(id)
                .map(|checkpoint| &checkpoint.definition),
        }
    }
}

impl Call<'_> {
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.parameters
            .text(name)
            .filter(|text| !text.trim().is_empty())
    }

    pub(crate) fn need_text(&self, name: &str) -> Result<&str, Failure> {
        self.text(name).ok_or_else(|| missing(name))
    }

    pub(crate) fn need_number(&self, name: &str) -> Result<u64, Failure> {
        match (self.parameters.u64(name), self.text(name)) {
            (Some(number), _) => Ok(number),
            (None, None) => Err(missing(name)),
            (None, Some(text)) => Err(Failure::wrong_type(format!(
                "{name}: {text:?} is no number"
            ))),
        }
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.parameters.bool(name).unwrap_or(false)
    }

    /// Returns an embedded instance.
    pub(crate) fn embedded(&self, name: &str) -> Result<Option<Embedded>, Failure> {
        match self.text(name) {
            Some(text) => read(name, text).map(Some),
            None => Ok(None),
        }
    }

    pub(crate) fn need_embedded(&self, name: &str) -> Result<Embedded, Failure> {
        self.embedded(name)?.ok_or_else(|| missing(name))
    }

    /// Returns an array of embedded instances.
    pub(crate) fn embedded_list(&self, name: &str) -> Result<Vec<Embedded>, Failure> {
        self.parameters
            .texts(name)
            .into_iter()
            .map(|text| read(name, text))
            .collect()
    }

    pub(crate) fn reference(&self, name: &str) -> Result<&Epr, Failure> {
        self.parameters.epr(name).ok_or_else(|| missing(name))
    }

    /// Returns an array of references.
    pub(crate) fn references(&self, name: &str) -> Result<Vec<&Epr>, Failure> {
        let items = self.parameters.items(name);
        items
            .iter()
            .map(|item| item.as_epr().ok_or_else(|| missing(name)))
            .collect()
    }

    /// Returns the VM a reference to a computer system names.
    pub(crate) fn system(&self, name: &str) -> Result<Vm, Failure> {
        let epr = self.reference(name)?;
        let gone = || {
            Failure::refused(
                Refusal::NoSuchSystem,
                format!("{name} names no virtual machine of this host"),
            )
        };
        let class = find(V2, epr.class()).ok_or_else(gone)?;
        let id = epr
            .get("Name")
            .and_then(|id| Uuid::try_parse(id).ok())
            .ok_or_else(gone)?;
        let vm = self.engine.vm(id).ok_or_else(gone)?;
        let own = if vm.planned {
            "Msvm_PlannedComputerSystem"
        } else {
            "Msvm_ComputerSystem"
        };
        if class.is_a(own) { Ok(vm) } else { Err(gone()) }
    }

    /// Returns the settings a reference names.
    pub(crate) fn settings(&self, name: &str) -> Result<Settings, Failure> {
        let id = self.reference(name)?.get("InstanceID").unwrap_or_default();
        self.settings_of(id)
            .ok_or_else(|| Failure::invalid(format!("{name} names no settings of this host")))
    }

    /// Returns the settings an InstanceID (of settings or of one of their resources) belongs to.
    pub(crate) fn settings_of(&self, instance_id: &str) -> Option<Settings> {
        let id = Uuid::try_parse(owner_of(instance_id)).ok()?;
        self.engine.read(|state| {
            if let Some(vm) = state.vms.get(&id) {
                return Some(Settings {
                    vm: vm.clone(),
                    checkpoint: None,
                });
            }
            let vm = state.vms.values().find(|vm| vm.checkpoint(id).is_some())?;
            Some(Settings {
                vm: vm.clone(),
                checkpoint: Some(id),
            })
        })
    }

    /// Returns the VM and checkpoint a reference to a checkpoint's settings names.
    pub(crate) fn checkpoint(&self, name: &str) -> Result<(Vm, Uuid), Failure> {
        let settings = self.settings(name)?;
        let id = settings.checkpoint.ok_or_else(|| {
            Failure::refused(
                Refusal::NoSuchCheckpoint,
                format!("{name} names no checkpoint"),
            )
        })?;
        Ok((settings.vm, id))
    }
}

fn read(name: &str, text: &str) -> Result<Embedded, Failure> {
    read_embedded(text)
        .map_err(|what| Failure::refused(Refusal::UnknownProperty, format!("{name}: {what}")))
}

fn missing(name: &str) -> Failure {
    Failure::invalid(format!(
        "the parameter {name} is missing or of the wrong type"
    ))
}
