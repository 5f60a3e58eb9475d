//! What the management service tells about VMs and configuration files in one answer.

use uuid::Uuid;
use wsman::Value as WireValue;

use super::{Answer, Call};
use crate::cim::{Object, Value, instance, v2};
use crate::config_files;
use crate::definition::{Definition, kind};
use crate::disks::parse_path;
use crate::failure::Failure;
use crate::objects;
use crate::state::{Vm, guid};

const CLASS: &str = "Msvm_SummaryInformation";

/// Tells about VMs, and about checkpoints where those are asked for.
pub(super) fn summary(call: &Call<'_>) -> Result<Answer, Failure> {
    let wanted: Vec<String> = call
        .references("SettingData")?
        .iter()
        .map(|epr| epr.get("InstanceID").unwrap_or_default().to_lowercase())
        .collect();
    let systems: Vec<Vm> = call.engine.read(|state| {
        let real = state.vms.values().filter(|vm| !vm.planned);
        real.cloned().collect()
    });
    let mut items = Vec::new();
    for vm in &systems {
        for definition in vm.definitions() {
            let id = definition.vssd.instance_id();
            let active = definition.owner() == vm.definition.owner();
            if wanted.contains(&id.to_lowercase()) || (wanted.is_empty() && active) {
                let object = of_settings(definition, vm.id)
                    .with(
                        "EnabledState",
                        vm.power.enabled_state(call.engine.knobs().enabled_states),
                    )
                    .with(
                        "OperationalStatus",
                        Value::numbers(objects::operational_status(call.engine, vm)),
                    );
                items.push(object);
            }
        }
    }
    Ok(answer(call, items))
}

/// Tells what configuration files hold, without importing them. Files that cannot be read are left out.
pub(super) fn of_files(call: &Call<'_>) -> Result<Answer, Failure> {
    let files = call.parameters.texts("DefinitionFiles");
    if files.is_empty() {
        return Err(Failure::invalid("DefinitionFiles is empty"));
    }
    let mut items = Vec::new();
    for file in files {
        let path = parse_path(file)?;
        match config_files::read(call.engine, &path) {
            Ok(content) => items.push(of_settings(&content.definition, content.vm)),
            Err(failure) => tracing::info!("'{path}' is left out: {failure}"),
        }
    }
    Ok(answer(call, items))
}

/// Tells the bytes that the configuration files of settings take.
pub(super) fn size_of_files(call: &Call<'_>) -> Result<Answer, Failure> {
    let settings = call.settings("Vssd")?;
    let definition = settings
        .definition()
        .ok_or_else(|| Failure::invalid("the checkpoint is gone"))?;
    let config = config_files::path_of(definition)?;
    let state = parse_path(&config.to_string().replace(".vmcx", ".vmrs"))?;
    let bytes = [config, state]
        .iter()
        .filter_map(|path| std::fs::metadata(call.engine.local(path)).ok())
        .map(|metadata| metadata.len())
        .sum::<u64>();
    Ok(Answer::done().with("Size", bytes))
}

fn of_settings(definition: &Definition, vm: Uuid) -> Object {
    let quantity = |kind| {
        let bag = definition.of_kind(kind).next();
        bag.and_then(|bag| bag.number("VirtualQuantity"))
    };
    let vssd = &definition.vssd;
    Object::new(v2(CLASS))
        .with("InstanceID", vssd.instance_id())
        .with("Name", guid(vm))
        .with("ElementName", vssd.text("ElementName"))
        .with("HealthState", 5_u64)
        .with("NumberOfProcessors", quantity(kind::PROCESSOR).unwrap_or(1))
        .with("MemoryUsage", quantity(kind::MEMORY).unwrap_or(0))
        .with("CreationTime", vssd.text("CreationTime"))
        .with("Version", vssd.text("Version"))
        .with("VirtualSystemSubType", vssd.text("VirtualSystemSubType"))
}

fn answer(call: &Call<'_>, items: Vec<Object>) -> Answer {
    let manner = call.engine.knobs().manner();
    let items = items
        .iter()
        .map(|object| WireValue::Instance(instance(object, manner)))
        .collect();
    Answer::done().with("SummaryInformation", WireValue::Array(items))
}
