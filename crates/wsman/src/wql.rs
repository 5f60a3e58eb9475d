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

/// Returns a WQL string literal for `LIKE` that matches the text as it is: its wildcards stand in brackets.
#[must_use]
pub fn like_literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '%' | '_' | '[') {
            out.extend(['[', c, ']']);
        } else {
            out.push(c);
        }
    }
    literal(&out)
}

/// Returns the query for the associations that name an object; of one class, or of any.
#[must_use]
pub fn reference_query(object: &ObjectPath, association: Option<&str>) -> String {
    let query = format!("REFERENCES OF {{{}}}", object.relative());
    match association {
        Some(class) => format!("{query} WHERE ResultClass = {class}"),
        None => query,
    }
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
        assert_eq!(like_literal(r"50%_[a]\x"), r"'50[%][_][[]a]\\x'");
    }

    #[test]
    fn references_name_the_object() {
        let object = ObjectPath::new("C").with("Name", "a'b");
        assert_eq!(
            reference_query(&object, None),
            r#"REFERENCES OF {C.Name="a'b"}"#
        );
        assert_eq!(
            reference_query(&object, Some("A")),
            r#"REFERENCES OF {C.Name="a'b"} WHERE ResultClass = A"#
        );
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
