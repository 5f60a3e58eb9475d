//! Texts for queries. What a query means is the service's business.

use crate::ObjectPath;

/// Returns a WQL string literal, quotes included.
#[must_use]
pub fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('\'');
    for c in text.chars() {
        if matches!(c, '\\' | '\'') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('\'');
    out
}

/// Returns the query for the objects associated with one object; of one class, or of any.
#[must_use]
pub fn association_query(object: &ObjectPath, association: &str, result: Option<&str>) -> String {
    let query = format!(
        "ASSOCIATORS OF {{{}}} WHERE AssocClass = {association}",
        object.relative()
    );
    match result {
        Some(class) => format!("{query} ResultClass = {class}"),
        None => query,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_escaped() {
        assert_eq!(literal(r"Bob's C:\x"), r"'Bob\'s C:\\x'");
    }

    #[test]
    fn associations_name_the_object() {
        let object = ObjectPath::new("Msvm_ConcreteJob").with("InstanceID", r"A\B");
        assert_eq!(
            association_query(
                &object,
                "Msvm_AffectedJobElement",
                Some("Msvm_ComputerSystem")
            ),
            r#"ASSOCIATORS OF {Msvm_ConcreteJob.InstanceID="A\\B"} WHERE AssocClass = Msvm_AffectedJobElement ResultClass = Msvm_ComputerSystem"#
        );
    }
}
