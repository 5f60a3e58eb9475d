//! Conditions, applied to objects.
//!
//! Strings are compared in any case. A comparison with NULL is neither true nor false: the object is not selected, not
//! even by NOT.

use std::cmp::Ordering;

use wsman::ObjectPath;

use super::parse::{CompareOp, Expr, Operand};
use crate::cim::{CimType, Class, Object, Value, same_object};

/// What system names stand for.
pub(crate) struct Scope<'a> {
    pub(crate) server: &'a str,
}

const SYSTEM_NAMES: [&str; 6] = [
    "__SERVER",
    "__PATH",
    "__RELPATH",
    "__CLASS",
    "__NAMESPACE",
    "__SUPERCLASS",
];

/// Whether a name is a property of the class or a system name.
pub(crate) fn is_known(name: &str, class: &Class) -> bool {
    class.property_any_case(name).is_some()
        || SYSTEM_NAMES
            .iter()
            .any(|system| system.eq_ignore_ascii_case(name))
}

/// Checks that every name in a condition is a property of the class or a system name; returns the first that is not.
pub(crate) fn check(expr: &Expr, class: &Class) -> Result<(), String> {
    let known = |operand: &Operand| match operand {
        Operand::Name(name) if !is_known(name, class) => Err(name.clone()),
        Operand::Name(_)
        | Operand::Text(_)
        | Operand::Number(_)
        | Operand::Bool(_)
        | Operand::Null => Ok(()),
    };
    match expr {
        Expr::And(left, right) | Expr::Or(left, right) => {
            check(left, class)?;
            check(right, class)
        }
        Expr::Not(inner) => check(inner, class),
        Expr::Compare { left, right, .. } => {
            known(left)?;
            known(right)
        }
        Expr::IsNull(operand) => known(operand),
    }
}

/// Whether the object is selected.
pub(crate) fn matches(expr: &Expr, object: &Object, scope: &Scope<'_>) -> bool {
    truth(expr, object, scope) == Some(true)
}

/// Three-valued logic: nothing is "unknown".
fn truth(expr: &Expr, object: &Object, scope: &Scope<'_>) -> Option<bool> {
    match expr {
        Expr::And(left, right) => match (truth(left, object, scope), truth(right, object, scope)) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            (None, _) | (_, None) => None,
        },
        Expr::Or(left, right) => match (truth(left, object, scope), truth(right, object, scope)) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (Some(false), Some(false)) => Some(false),
            (None, _) | (_, None) => None,
        },
        Expr::Not(inner) => truth(inner, object, scope).map(|truth| !truth),
        Expr::IsNull(operand) => Some(matches!(resolve(operand, object, scope), Term::Null)),
        Expr::Compare { left, op, right } => {
            let null = |operand: &Operand| matches!(operand, Operand::Null);
            let (left_term, right_term) =
                (resolve(left, object, scope), resolve(right, object, scope));
            // `= NULL` and `!= NULL` are how many programs write IS NULL.
            if null(left) || null(right) {
                let both = matches!((&left_term, &right_term), (Term::Null, Term::Null));
                return match op {
                    CompareOp::Equal => Some(both),
                    CompareOp::NotEqual => Some(!both),
                    CompareOp::Less
                    | CompareOp::LessOrEqual
                    | CompareOp::Greater
                    | CompareOp::GreaterOrEqual
                    | CompareOp::Like
                    | CompareOp::Isa => None,
                };
            }
            compare(&left_term, *op, &right_term, object)
        }
    }
}

#[derive(Debug)]
enum Term {
    Null,
    Text(String),
    Number(i128),
    Bool(bool),
    Path(ObjectPath),
    Class,
    Array,
}

fn resolve(operand: &Operand, object: &Object, scope: &Scope<'_>) -> Term {
    match operand {
        Operand::Text(text) => Term::Text(text.clone()),
        Operand::Number(number) => Term::Number(*number),
        Operand::Bool(flag) => Term::Bool(*flag),
        Operand::Null => Term::Null,
        Operand::Name(name) => match name.to_ascii_uppercase().as_str() {
            "__SERVER" => Term::Text(scope.server.to_owned()),
            "__PATH" => Term::Path(object.path(scope.server)),
            "__RELPATH" => {
                let mut path = object.path(scope.server);
                path.host = None;
                path.namespace = None;
                Term::Path(path)
            }
            "__CLASS" => Term::Class,
            "__NAMESPACE" => Term::Text(object.class.namespace.to_owned()),
            "__SUPERCLASS" => object
                .class
                .base()
                .map_or(Term::Null, |base| Term::Text(base.to_owned())),
            _ => {
                let Some(property) = object.class.property_any_case(name) else {
                    return Term::Null;
                };
                match object.get(property.name) {
                    None => Term::Null,
                    Some(Value::List(_) | Value::Embedded(_)) => Term::Array,
                    Some(Value::Bool(flag)) => Term::Bool(*flag),
                    Some(Value::Unsigned(number)) => Term::Number(i128::from(*number)),
                    Some(Value::Signed(number)) => Term::Number(i128::from(*number)),
                    Some(Value::Text(text)) if property.cim_type == CimType::Reference => {
                        text.parse().map_or(Term::Null, Term::Path)
                    }
                    Some(Value::Text(text)) => Term::Text(text.clone()),
                }
            }
        },
    }
}

fn compare(left: &Term, op: CompareOp, right: &Term, object: &Object) -> Option<bool> {
    let ordering = match (left, right) {
        (Term::Class, Term::Text(name)) | (Term::Text(name), Term::Class) => {
            return match op {
                CompareOp::Isa => Some(object.class.is_a(name)),
                CompareOp::Equal => Some(object.class.name.eq_ignore_ascii_case(name)),
                CompareOp::NotEqual => Some(!object.class.name.eq_ignore_ascii_case(name)),
                CompareOp::Like => Some(like(object.class.name, name)),
                CompareOp::Less
                | CompareOp::LessOrEqual
                | CompareOp::Greater
                | CompareOp::GreaterOrEqual => None,
            };
        }
        (Term::Path(path), Term::Text(text)) | (Term::Text(text), Term::Path(path)) => {
            let same = text.parse().is_ok_and(|other| same_object(path, &other));
            return match op {
                CompareOp::Equal => Some(same),
                CompareOp::NotEqual => Some(!same),
                CompareOp::Like => Some(like(&path.to_string(), text)),
                CompareOp::Isa
                | CompareOp::Less
                | CompareOp::LessOrEqual
                | CompareOp::Greater
                | CompareOp::GreaterOrEqual => None,
            };
        }
        (Term::Text(left), Term::Text(right)) if op == CompareOp::Like => {
            return Some(like(left, right));
        }
        (Term::Text(left), Term::Text(right)) => left.to_lowercase().cmp(&right.to_lowercase()),
        (Term::Number(left), Term::Number(right)) => left.cmp(right),
        (Term::Number(left), Term::Text(right)) => left.cmp(&right.trim().parse().ok()?),
        (Term::Text(left), Term::Number(right)) => left.trim().parse::<i128>().ok()?.cmp(right),
        (Term::Bool(left), right) => left.cmp(&flag(right)?),
        (left, Term::Bool(right)) => flag(left)?.cmp(right),
        (
            Term::Null
            | Term::Array
            | Term::Class
            | Term::Path(_)
            | Term::Text(_)
            | Term::Number(_),
            Term::Null
            | Term::Array
            | Term::Class
            | Term::Path(_)
            | Term::Text(_)
            | Term::Number(_),
        ) => return None,
    };
    Some(match op {
        CompareOp::Equal => ordering == Ordering::Equal,
        CompareOp::NotEqual => ordering != Ordering::Equal,
        CompareOp::Less => ordering == Ordering::Less,
        CompareOp::LessOrEqual => ordering != Ordering::Greater,
        CompareOp::Greater => ordering == Ordering::Greater,
        CompareOp::GreaterOrEqual => ordering != Ordering::Less,
        CompareOp::Like | CompareOp::Isa => return None,
    })
}

fn flag(term: &Term) -> Option<bool> {
    match term {
        Term::Bool(flag) => Some(*flag),
        Term::Number(number) => Some(*number != 0),
        Term::Text(text) => Value::Text(text.clone()).as_bool(),
        Term::Null | Term::Path(_) | Term::Class | Term::Array => None,
    }
}

/// `%` any run, `_` one character, `[a-f]` and `[^a-f]` one of a set; in any case.
fn like(text: &str, pattern: &str) -> bool {
    let text: Vec<char> = text.to_lowercase().chars().collect();
    let pattern = elements(&pattern.to_lowercase());
    // Greedy with one way back, as for shell patterns: linear in practice, never exponential.
    let (mut at, mut element) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while at < text.len() {
        match pattern.get(element) {
            Some(Element::Any) => {
                back = Some((element, at));
                element += 1;
            }
            Some(single) if single.takes(text[at]) => {
                at += 1;
                element += 1;
            }
            Some(_) | None => match back {
                Some((star, taken)) => {
                    back = Some((star, taken + 1));
                    at = taken + 1;
                    element = star + 1;
                }
                None => return false,
            },
        }
    }
    pattern[element..]
        .iter()
        .all(|element| matches!(element, Element::Any))
}

enum Element {
    Any,
    One,
    Char(char),
    Set { negated: bool, ranges: Vec<(char, char)> },
}

impl Element {
    fn takes(&self, c: char) -> bool {
        match self {
            Element::Any => false,
            Element::One => true,
            Element::Char(own) => *own == c,
            Element::Set { negated, ranges } => {
                ranges.iter().any(|&(from, to)| (from..=to).contains(&c)) != *negated
            }
        }
    }
}

fn elements(pattern: &str) -> Vec<Element> {
    let mut elements = Vec::new();
    let chars: Vec<char> = pattern.chars().collect();
    let mut at = 0;
    while at < chars.len() {
        let close = chars[at..]
            .iter()
            .position(|c| *c == ']')
            .map(|len| at + len);
        match (chars[at], close) {
            ('%', _) => elements.push(Element::Any),
            ('_', _) => elements.push(Element::One),
            ('[', Some(close)) if close > at + 1 => {
                elements.push(set(&chars[at + 1..close]));
                at = close;
            }
            (c, _) => elements.push(Element::Char(c)),
        }
        at += 1;
    }
    elements
}

fn set(inner: &[char]) -> Element {
    let (negated, inner) = match inner {
        ['^', rest @ ..] if !rest.is_empty() => (true, rest),
        inner => (false, inner),
    };
    let mut ranges = Vec::new();
    let mut rest = inner;
    loop {
        rest = match rest {
            [from, '-', to, rest @ ..] => {
                ranges.push((*from, *to));
                rest
            }
            [one, rest @ ..] => {
                ranges.push((*one, *one));
                rest
            }
            [] => return Element::Set { negated, ranges },
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse::{Query, parse};
    use super::*;
    use crate::cim::v2;

    fn vm() -> Object {
        Object::new(v2("Msvm_ComputerSystem"))
            .with("CreationClassName", "Msvm_ComputerSystem")
            .with("Name", "B637F346-6A0E-4DEC-AF52-BD70CB80A21D")
            .with("ElementName", "web 01")
            .with("EnabledState", 2_u64)
            .with("OperationalStatus", Value::numbers([2]))
    }

    #[track_caller]
    fn check_where(condition: &str, expected: bool) {
        let query = format!("SELECT * FROM Msvm_ComputerSystem WHERE {condition}");
        let Ok(Query::Select {
            filter: Some(filter),
            ..
        }) = parse(&query)
        else {
            panic!("{query} is no query")
        };
        assert_eq!(check(&filter, vm().class), Ok(()), "{condition}");
        assert_eq!(
            matches(&filter, &vm(), &Scope { server: "HV01" }),
            expected,
            "{condition}"
        );
    }

    #[test]
    fn conditions_select_what_wmi_selects() {
        for (condition, expected) in [
            ("Name = 'b637f346-6a0e-4dec-af52-bd70cb80a21d'", true),
            ("name = \"B637F346-6A0E-4DEC-AF52-BD70CB80A21D\"", true),
            ("Name != __SERVER", true),
            ("Name = __SERVER", false),
            ("__SERVER = 'hv01'", true),
            ("EnabledState = 2", true),
            ("EnabledState = '2'", true),
            ("EnabledState != 2", false),
            ("EnabledState <> 3 AND ElementName = 'WEB 01'", true),
            ("EnabledState > 2 OR ElementName LIKE 'web%'", true),
            ("NOT (EnabledState >= 2)", false),
            (
                "EnabledState < 3 AND (ElementName = 'x' OR ElementName LIKE '%[0-9]')",
                true,
            ),
            ("ElementName LIKE 'web_01'", true),
            ("ElementName LIKE 'web[^ ]01'", false),
            ("NOT ElementName LIKE '%02'", true),
            ("ElementName NOT LIKE '%02'", true),
            ("Description = 'x'", false),
            ("NOT Description = 'x'", false),
            ("Description IS NULL", true),
            ("Description = NULL AND Name IS NOT NULL", true),
            ("Name <> NULL", true),
            ("__CLASS = 'msvm_computersystem'", true),
            ("__CLASS ISA 'CIM_System'", true),
            ("OperationalStatus = 2", false),
            (
                r#"__PATH = '\\\\hv01\\root\\virtualization\\v2:Msvm_ComputerSystem.CreationClassName="Msvm_ComputerSystem",Name="B637F346-6A0E-4DEC-AF52-BD70CB80A21D"'"#,
                true,
            ),
        ] {
            check_where(condition, expected);
        }
    }

    #[test]
    fn like_takes_its_time_in_proportion_to_the_text() {
        let text = "a".repeat(20_000);
        assert!(!like(&text, &format!("{}b", "%a".repeat(30))));
        assert!(like(r"Microsoft:Definition\X\Default", r"%\Default"));
    }

    #[test]
    fn queries_are_read_in_all_three_forms() {
        let assoc = r#"ASSOCIATORS OF {Msvm_X.InstanceID='a}b'} WHERE AssocClass = A ResultClass=R Role = x ResultRole = y"#;
        let Ok(Query::Associators { path, filter }) = parse(assoc) else {
            panic!("no associators")
        };
        assert_eq!(path, "Msvm_X.InstanceID='a}b'");
        assert_eq!(filter.result_role.as_deref(), Some("y"));
        assert!(matches!(
            parse("references of {X=1} where resultclass = A"),
            Ok(Query::References { .. })
        ));
        assert!(
            matches!(parse("select a , b from C"), Ok(Query::Select { columns: Some(c), .. }) if c == ["a", "b"])
        );
    }

    #[test]
    fn refuses_what_is_no_query() {
        for text in [
            "",
            "SELECT",
            "SELECT * FROM",
            "SELECT * FROM C WHERE",
            "SELECT * FROM C WHERE a =",
            "SELECT * FROM C WHERE a = 'x",
            "SELECT * FROM C WHERE (a = 1",
            "SELECT * FROM C extra",
            "SELECT * FROM C WHERE a ; b",
            "ASSOCIATORS OF X",
            "ASSOCIATORS OF {X WHERE",
            "ASSOCIATORS OF {X} WHERE Foo = A",
            "DELETE FROM C",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        let deep = format!(
            "SELECT * FROM C WHERE {}a = 1{}",
            "(".repeat(500),
            ")".repeat(500)
        );
        assert!(parse(&deep).is_err());
        let query = "SELECT * FROM Msvm_ComputerSystem WHERE Colour = 'red'";
        let Ok(Query::Select {
            filter: Some(filter),
            ..
        }) = parse(query)
        else {
            panic!("no query")
        };
        assert_eq!(check(&filter, vm().class), Err("Colour".to_owned()));
    }
}
