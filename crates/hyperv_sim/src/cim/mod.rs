//! The object model's machinery: classes, values, objects, and their way onto the wire.

mod object;
mod schema;
mod wire;

pub(crate) use object::{Bag, Object, Value, has_keys, names, same_object};
pub(crate) use schema::{
    CIMV2, CimType, Class, MSCLUSTER, V2, cimv2, classes, find, known_namespace, v2,
};
pub(crate) use wire::{Embedded, Manner, epr_of_path, instance, read_embedded, to_cim_xml};
