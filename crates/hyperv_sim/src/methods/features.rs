//! Features of network connections, such as their VLAN.
//!
//! They are kept among the resources of the settings, under the InstanceID of their connection, and go with it.

use uuid::Uuid;
use wsman::Value as WireValue;

use super::answers::reference;
use super::system::change_settings;
use super::{Answer, Call};
use crate::cim::{Bag, Embedded};
use crate::definition::{kind, path_text};
use crate::failure::Failure;
use crate::refusals::Refusal;
use crate::resources;
use crate::state::guid;

const BASE: &str = "Msvm_EthernetSwitchPortFeatureSettingData";
const VLAN: &str = "Msvm_EthernetSwitchPortVlanSettingData";

/// The feature's own id in InstanceIDs.
const VLAN_FEATURE: &str = "952C5004-4465-451C-8CB8-FA9AB382B773";
const LAST_VLAN: u64 = 4094;
/// OperationMode: access, trunk, private.
const LAST_MODE: u64 = 3;

pub(super) fn add(call: &Call<'_>) -> Result<Answer, Failure> {
    let connection = call.reference("AffectedConfiguration")?;
    let id = connection.get("InstanceID").unwrap_or_default().to_owned();
    let nowhere = || Failure::invalid("AffectedConfiguration names no network connection");
    let settings = call.settings_of(&id).ok_or_else(nowhere)?;
    let definition = settings.definition();
    let connection = definition
        .and_then(|definition| definition.resource(&id))
        .filter(|bag| bag.number("ResourceType") == Some(kind::CONNECTION));
    let id = connection.ok_or_else(nowhere)?.instance_id().to_owned();
    let mut added = Vec::new();
    for wish in call.embedded_list("FeatureSettings")? {
        check(&wish)?;
        let there = |bag: &Bag| bag.class == wish.class.name && hangs_on(bag, &id);
        let known = definition.is_some_and(|definition| definition.resources.iter().any(there));
        if known || added.iter().any(there) {
            return Err(Failure::refused(
                Refusal::FeatureThere,
                "the connection has this feature already; change it",
            ));
        }
        let mut bag = Bag::new(wish.class.name);
        for (name, value) in wish.given {
            bag.set(&name, value);
        }
        bag.set(
            "InstanceID",
            format!(r"{id}\{VLAN_FEATURE}\{}", guid(Uuid::new_v4())),
        );
        added.push(bag);
    }
    if added.is_empty() {
        return Err(Failure::invalid("FeatureSettings is empty"));
    }
    let server = call.engine.name();
    let made = added
        .iter()
        .map(|bag| reference(&path_text(&server, &bag.class, bag.instance_id())))
        .collect();
    change_settings(call.engine, &settings, |definition| {
        definition.resources.extend(added);
        Ok(())
    })?;
    Ok(Answer::done().with("ResultingFeatureSettings", WireValue::Array(made)))
}

pub(super) fn modify(call: &Call<'_>) -> Result<Answer, Failure> {
    let server = call.engine.name();
    let mut made = Vec::new();
    for wish in call.embedded_list("FeatureSettings")? {
        check(&wish)?;
        let id = wish
            .text("InstanceID")
            .ok_or_else(|| Failure::invalid("FeatureSettings has no InstanceID"))?;
        let settings = call
            .settings_of(id)
            .ok_or_else(|| Failure::invalid(format!("there is no feature {id}")))?;
        change_settings(call.engine, &settings, |definition| {
            resources::modify(definition, &server, id, &wish.given)
        })?;
        made.push(reference(&path_text(&server, wish.class.name, id)));
    }
    if made.is_empty() {
        return Err(Failure::invalid("FeatureSettings is empty"));
    }
    Ok(Answer::done().with("ResultingFeatureSettings", WireValue::Array(made)))
}

pub(super) fn remove(call: &Call<'_>) -> Result<Answer, Failure> {
    for epr in call.references("FeatureSettings")? {
        let id = epr.get("InstanceID").unwrap_or_default();
        let gone = || Failure::invalid(format!("there is no feature {id}"));
        let settings = call.settings_of(id).ok_or_else(gone)?;
        change_settings(call.engine, &settings, |definition| {
            let is_it = |bag: &Bag| is_feature(bag) && bag.instance_id().eq_ignore_ascii_case(id);
            let before = definition.resources.len();
            definition.resources.retain(|bag| !is_it(bag));
            if definition.resources.len() == before {
                return Err(gone());
            }
            Ok(())
        })?;
    }
    Ok(Answer::done())
}

fn is_feature(bag: &Bag) -> bool {
    crate::cim::v2(&bag.class).is_a(BASE)
}

fn hangs_on(bag: &Bag, connection: &str) -> bool {
    let id = bag.instance_id();
    id.get(..connection.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(connection))
        && id[connection.len()..].starts_with('\\')
}

/// Refuses what is no feature this host has, and numbers no VLAN has.
fn check(wish: &Embedded) -> Result<(), Failure> {
    if wish.class.name != VLAN {
        return Err(Failure::refused(
            Refusal::WrongClass,
            format!("{} is no feature this host has", wish.class.name),
        ));
    }
    let number = |name: &str, last: u64| match wish.number(name) {
        Some(number) if number > last => Err(Failure::refused(
            Refusal::BadVlan,
            format!("{name} is at most {last}, not {number}"),
        )),
        Some(_) | None => Ok(()),
    };
    number("AccessVlanId", LAST_VLAN)?;
    number("NativeVlanId", LAST_VLAN)?;
    number("PrimaryVlanId", LAST_VLAN)?;
    number("SecondaryVlanId", LAST_VLAN)?;
    number("OperationMode", LAST_MODE)
}
