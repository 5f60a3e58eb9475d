//! What is built is read back the same; what is random is refused or read, without a panic.

use std::time::Duration;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use wsman::{
    CimTime, Enumerate, EnumerationMode, Epr, Filter, Header, Instance, Interval, Item, Items,
    Moment, Operation, Properties, Pull, Reply, Request, Response, Selector, Selectors, Value, uri,
};

const NAMESPACE: &str = "root/virtualization/v2";

fn text() -> impl Strategy<Value = String> {
    "[ -~\t\r\n\u{E4}\u{4E2D}\u{1F600}]{0,24}"
}

fn name() -> impl Strategy<Value = String> {
    "[A-Za-z_][A-Za-z0-9_]{0,10}"
}

fn word() -> impl Strategy<Value = String> {
    "[!-~]{1,20}"
}

fn selectors() -> impl Strategy<Value = Selectors> {
    let leaf = text().prop_map(Selector::Text);
    let epr = btree_map(name(), text().prop_map(Selector::Text), 0..3).prop_map(|keys| {
        let epr = Epr {
            selectors: Selectors(keys),
            ..Epr::new(NAMESPACE, "Msvm_Inner")
        };
        Selector::Epr(Box::new(epr))
    });
    btree_map(name(), prop_oneof![4 => leaf, 1 => epr], 0..4).prop_map(Selectors)
}

fn epr() -> impl Strategy<Value = Epr> {
    (selectors(), name()).prop_map(|(selectors, class)| Epr {
        selectors,
        ..Epr::new(NAMESPACE, &class)
    })
}

fn time() -> impl Strategy<Value = CimTime> {
    prop_oneof![
        (0..4_000_000_000_000_000_i64, -840_i16..=840).prop_map(
            |(micros, offset)| CimTime::Moment(Moment::from_unix_micros(micros).at_offset(offset))
        ),
        (0..1_000_000_000_000_u64).prop_map(|micros| CimTime::Interval(Interval { micros })),
    ]
}

/// A value the wire shows as it is: untyped, and never an array of fewer than two.
fn wire_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        6 => text().prop_map(Value::Text),
        1 => time().prop_map(Value::Time),
        1 => epr().prop_map(Value::Epr),
    ];
    leaf.prop_recursive(2, 16, 4, |inner| {
        let single = inner.clone().prop_filter("no array in an array", |value| {
            !matches!(value, Value::Array(_))
        });
        let instance = (name(), btree_map(name(), inner, 0..3)).prop_map(|(class, values)| {
            Value::Instance(Instance {
                class,
                properties: Properties(values),
            })
        });
        prop_oneof![vec(single, 2..4).prop_map(Value::Array), instance]
    })
}

fn properties() -> impl Strategy<Value = Properties> {
    btree_map(name(), wire_value(), 0..6).prop_map(Properties)
}

fn instance() -> impl Strategy<Value = Instance> {
    (
        name().prop_filter("a class", |n| !n.ends_with("_OUTPUT")),
        properties(),
    )
        .prop_map(|(class, properties)| Instance { class, properties })
}

fn header() -> impl Strategy<Value = Header> {
    let rest = (
        option::of(any::<u32>()),
        option::of(0..100_000_u64),
        option::of("[a-z]{2}-[A-Z]{2}"),
    );
    (
        word(),
        word(),
        selectors(),
        btree_map(name(), text(), 0..3),
        rest,
    )
        .prop_map(
            |(to, id, selectors, options, (max_envelope_bytes, timeout, locale))| Header {
                to,
                resource_uri: uri::class_uri(NAMESPACE, "Msvm_Thing"),
                message_id: format!("uuid:{id}"),
                max_envelope_bytes,
                timeout: timeout.map(Duration::from_millis),
                locale,
                selectors,
                options,
            },
        )
}

fn operation() -> impl Strategy<Value = Operation> {
    let mode = prop_oneof![
        Just(EnumerationMode::Object),
        Just(EnumerationMode::Epr),
        Just(EnumerationMode::ObjectAndEpr)
    ];
    let filter = (word(), text()).prop_map(|(dialect, text)| Filter { dialect, text });
    let enumerate = (
        option::of(filter),
        mode,
        any::<bool>(),
        option::of(any::<u32>()),
    )
        .prop_map(|(filter, mode, optimize, max_elements)| Enumerate {
            filter,
            mode,
            optimize,
            max_elements,
        });
    let pull = (
        word(),
        option::of(any::<u32>()),
        option::of(any::<u32>()),
        option::of(0..9999_u64),
    )
        .prop_map(|(context, max_elements, max_characters, time)| Pull {
            context,
            max_elements,
            max_characters,
            max_time: time.map(Duration::from_millis),
        });
    prop_oneof![
        enumerate.prop_map(Operation::Enumerate),
        pull.prop_map(Operation::Pull),
        word().prop_map(|context| Operation::Release { context }),
        Just(Operation::Get),
        Just(Operation::Delete),
        instance().prop_map(Operation::Put),
        (name(), properties())
            .prop_map(|(method, parameters)| Operation::Invoke { method, parameters }),
    ]
}

fn items() -> impl Strategy<Value = Items> {
    let class = || instance().prop_filter("an object", |i| i.class != "Item");
    let item = prop_oneof![
        class().prop_map(Item::Object),
        epr().prop_map(Item::Epr),
        (class(), epr()).prop_map(|(instance, epr)| Item::Both(instance, epr)),
    ];
    (option::of(word()), vec(item, 0..4), any::<bool>()).prop_map(|(context, items, end)| Items {
        context,
        items,
        end,
    })
}

proptest! {
    #[test]
    fn requests_survive(header in header(), operation in operation()) {
        let request = Request { header, operation };
        prop_assert_eq!(Request::parse(request.to_xml().as_bytes()).unwrap(), request);
    }

    #[test]
    fn replies_survive(batch in items(), outputs in properties(), object in instance(), method in name()) {
        let request = Request {
            header: Header { message_id: "uuid:1".into(), resource_uri: uri::class_uri(NAMESPACE, "Msvm_Thing"), ..Header::default() },
            operation: Operation::Get,
        };
        let replies = [
            Reply::Enumerate { batch: batch.clone(), optimized: true },
            Reply::Pull(batch),
            Reply::Object(object),
            Reply::Empty,
            Reply::Invoke { method, outputs },
            Reply::Identify { vendor: "v".into(), version: "OS: 1".into() },
        ];
        for reply in replies {
            let response = Response::to(&request, "uuid:2", NAMESPACE, reply);
            let read = Response::parse(response.to_xml().as_bytes()).unwrap();
            prop_assert_eq!(read.reply, response.reply);
            prop_assert_eq!(read.action, response.action);
        }
    }

    #[test]
    fn embedded_objects_survive(class in name(), texts in btree_map(name(), text(), 0..4), n in any::<u64>(), i in any::<i32>(),
                                flag in any::<bool>(), small in vec(any::<u16>(), 0..4), at in time(), inner in text()) {
        let mut instance = Instance { class, properties: texts.into_iter().map(|(k, v)| (k, Value::Text(v))).collect() };
        instance.set("N", n);
        instance.set("I", i);
        instance.set("F", flag);
        instance.set("Null", Value::Null);
        instance.set("A", small.into_iter().map(Value::U16).collect::<Vec<_>>());
        instance.set("T", at);
        instance.set("Inner", Value::embedded(&Instance::new("X").with("Y", inner)));
        prop_assert_eq!(Instance::from_cim_xml(&instance.to_cim_xml()).unwrap(), instance.clone());

        // And once more inside a request, as method parameters travel.
        let parameters = Properties::new().with("Settings", Value::embedded(&instance));
        let header = Header { resource_uri: uri::class_uri(NAMESPACE, "Msvm_Thing"), ..Header::default() };
        let request = Request { header, operation: Operation::Invoke { method: "M".into(), parameters } };
        let Operation::Invoke { parameters, .. } = Request::parse(request.to_xml().as_bytes()).unwrap().operation else { panic!() };
        prop_assert_eq!(parameters.instance("Settings").unwrap(), instance);
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = (Request::parse(&bytes), Response::parse(&bytes));
    }

    #[test]
    fn damaged_messages_never_panic(header in header(), operation in operation(), at in any::<prop::sample::Index>(), with in vec(any::<u8>(), 0..6), cut in 0..20_usize) {
        let mut bytes = Request { header, operation }.to_xml().into_bytes();
        let at = at.index(bytes.len());
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, with);
        let _ = (Request::parse(&bytes), Response::parse(&bytes));
        if let Ok(text) = std::str::from_utf8(&bytes) {
            let _ = Instance::from_cim_xml(text);
        }
    }
}
