//! Sessions: batches, limits, faults, broken connections.

use hyperv::{Changes, CimSession, Endpoint, Error, ErrorKind, Host};
use wsman::{
    Epr, Fault, Instance, Item, Items, Operation, Properties, Reply, Request, Subcode, Value,
};

use crate::peer::{Answer, Peer};

const NS: &str = "root/virtualization/v2";

fn session(peer: &Peer) -> CimSession {
    CimSession::new(&Endpoint::new(peer.url.as_str())).expect("the address is good")
}

fn object(n: usize) -> Item {
    Item::Object(Instance::new("C").with("N", n.to_string()))
}

fn batch(items: std::ops::Range<usize>, context: Option<&str>) -> Items {
    Items {
        items: items.map(object).collect(),
        context: context.map(str::to_owned),
        end: context.is_none(),
    }
}

async fn numbers(session: &CimSession) -> Result<Vec<u64>, Error> {
    let found = session.query(NS, "SELECT * FROM C").await?;
    Ok(found
        .iter()
        .map(|instance| instance.u64("N").expect("every object has a number"))
        .collect())
}

#[tokio::test]
async fn a_service_that_gives_one_object_a_time_is_followed_by_its_newest_context() {
    let mut given = 0;
    let peer = Peer::start(move |request| match &request.operation {
        Operation::Pull(pull) => {
            assert_eq!(pull.context, format!("c{given}"));
            given += 1;
            let context = format!("c{given}");
            Reply::Pull(batch(
                given - 1..given,
                (given < 5).then_some(context.as_str()),
            ))
            .into()
        }
        _ => Reply::Enumerate {
            batch: batch(0..0, Some("c0")),
            optimized: false,
        }
        .into(),
    })
    .await;
    assert_eq!(numbers(&session(&peer)).await.unwrap(), [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn replies_that_do_not_fit_are_asked_for_larger() {
    let peer = Peer::start(|request| {
        if request
            .header
            .max_envelope_bytes
            .is_some_and(|bytes| bytes < 1_000_000)
        {
            return Fault::encoding_limit("too large").into();
        }
        Reply::Enumerate {
            batch: batch(0..3, None),
            optimized: true,
        }
        .into()
    })
    .await;
    let session = session(&peer);
    assert_eq!(numbers(&session).await.unwrap().len(), 3);
    let asked: Vec<_> = peer
        .seen()
        .iter()
        .filter_map(|request| request.header.max_envelope_bytes)
        .collect();
    assert_eq!(asked, [153_600, 307_200, 614_400, 1_228_800]);
    // It stays at what was found.
    numbers(&session).await.unwrap();
    assert_eq!(peer.seen().len(), 5);
}

#[tokio::test]
async fn a_service_that_never_fits_a_reply_is_given_up() {
    let peer = Peer::start(|_| Fault::encoding_limit("too large").into()).await;
    let error = numbers(&session(&peer)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Failed);
    assert!(peer.seen().len() < 12);
}

#[tokio::test]
async fn an_expired_enumeration_starts_again_and_gives_each_object_once() {
    for hang_up in [false, true] {
        let mut pulls = 0;
        let peer = Peer::start(move |request| match &request.operation {
            Operation::Pull(_) => {
                pulls += 1;
                match pulls {
                    1 if hang_up => Answer::HangUp,
                    1 => Fault::new(Subcode::InvalidEnumerationContext, "expired").into(),
                    _ => Reply::Pull(batch(2..4, None)).into(),
                }
            }
            _ => Reply::Enumerate {
                batch: batch(0..2, Some("c")),
                optimized: true,
            }
            .into(),
        })
        .await;
        assert_eq!(
            numbers(&session(&peer)).await.unwrap(),
            [0, 1, 2, 3],
            "hang up: {hang_up}"
        );
    }
}

#[tokio::test]
async fn an_enumeration_without_end_is_given_up() {
    let peer = Peer::start(|request| match &request.operation {
        Operation::Pull(_) => Reply::Pull(batch(0..0, Some("c"))).into(),
        _ => Reply::Enumerate {
            batch: batch(0..0, Some("c")),
            optimized: true,
        }
        .into(),
    })
    .await;
    assert_eq!(
        numbers(&session(&peer)).await.unwrap_err().kind(),
        ErrorKind::Protocol
    );
}

#[tokio::test]
async fn reading_is_repeated_where_that_helps() {
    let busy = || Answer::Raw(503, b"busy".to_vec());
    let quota = || Fault::new(Subcode::QuotaLimit, "too many").into();
    for first in [|| Answer::HangUp, busy, quota] {
        let mut requests = 0;
        let peer = Peer::start(move |_| {
            requests += 1;
            if requests == 1 {
                first()
            } else {
                Reply::Enumerate {
                    batch: batch(0..1, None),
                    optimized: true,
                }
                .into()
            }
        })
        .await;
        assert_eq!(numbers(&session(&peer)).await.unwrap(), [0]);
    }
}

#[tokio::test]
async fn a_method_that_may_have_run_is_not_called_again() {
    let timed_out = || Fault::timed_out("too slow").into();
    for answer in [|| Answer::HangUp, timed_out] {
        let peer = Peer::start(move |_| answer()).await;
        let service = Epr::new(NS, "Msvm_Service");
        let error = session(&peer)
            .invoke(&service, "Do", Properties::new())
            .await
            .unwrap_err();
        assert_eq!(
            (error.kind(), peer.methods().len()),
            (ErrorKind::ResultUnknown, 1),
            "{error}"
        );
    }
    // One that has certainly not run is.
    let mut calls = 0;
    let peer = Peer::start(move |_| {
        calls += 1;
        match calls {
            1 => Fault::new(Subcode::QuotaLimit, "too many").into(),
            _ => Reply::Invoke {
                method: "Do".into(),
                outputs: Properties::new().with("ReturnValue", 0_u32),
            }
            .into(),
        }
    })
    .await;
    let outputs = session(&peer)
        .invoke(&Epr::new(NS, "Msvm_Service"), "Do", Properties::new())
        .await
        .unwrap();
    assert_eq!(
        (outputs.u32("ReturnValue"), peer.methods().len()),
        (Some(0), 2)
    );
}

#[tokio::test]
async fn every_kind_of_refusal_is_told_apart() {
    let raw = |status, text: &str| Answer::Raw(status, text.as_bytes().to_vec());
    let cases: Vec<(Answer, ErrorKind)> = vec![
        (raw(401, ""), ErrorKind::AccessDenied),
        (raw(404, "no such page"), ErrorKind::Protocol),
        (raw(200, ""), ErrorKind::Protocol),
        (raw(200, "<html>log in</html>"), ErrorKind::Protocol),
        (raw(500, "oops"), ErrorKind::Protocol),
        (
            Answer::Raw(200, vec![b' '; wsman::limits::ENVELOPE_BYTES + 1]),
            ErrorKind::Protocol,
        ),
        (Reply::Empty.into(), ErrorKind::Protocol),
        (Fault::access_denied("no").into(), ErrorKind::AccessDenied),
        (
            Fault::not_found("no such object").into(),
            ErrorKind::NotFound,
        ),
        (
            Fault::new(Subcode::DestinationUnreachable, "no such class").into(),
            ErrorKind::Unsupported,
        ),
        (
            Fault::new(Subcode::InvalidParameter, "wrong").into(),
            ErrorKind::Refused,
        ),
        (
            Fault::new(Subcode::CannotProcessFilter, "bad query").into(),
            ErrorKind::Refused,
        ),
        (
            Fault::new(Subcode::InternalError, "boom").into(),
            ErrorKind::Failed,
        ),
    ];
    for (answer, kind) in cases {
        let mut answer = Some(answer);
        let peer = Peer::start(move |_: &Request| answer.take().unwrap_or(Answer::HangUp)).await;
        let error = session(&peer)
            .get(&Epr::new(NS, "C").with("InstanceID", "x"))
            .await
            .unwrap_err();
        assert_eq!((error.kind(), peer.seen().len()), (kind, 1), "{error}");
    }
}

#[tokio::test]
async fn a_fault_keeps_the_hosts_words() {
    let peer = Peer::start(|_| {
        Fault::new(Subcode::InternalError, "provider failure")
            .with_hresult(wsman::hresult::FAILED, "Kaputt:")
            .into()
    })
    .await;
    let error = session(&peer).get(&Epr::new(NS, "C")).await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        cause.contains("Kaputt") && cause.contains("0x80041001"),
        "{cause}"
    );
}

#[tokio::test]
async fn a_host_that_is_down_is_unreachable_and_nothing_has_happened() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/wsman", listener.local_addr().unwrap());
    drop(listener);
    let session = CimSession::new(&Endpoint::new(url)).unwrap();
    let error = session.identify().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Retry);
}

#[tokio::test]
async fn an_account_without_rights_and_a_machine_without_hyper_v_are_named_as_such() {
    // Without Hyper-V rights a host answers with empty results, not with a fault.
    let peer = Peer::start(|_| {
        Reply::Enumerate {
            batch: batch(0..0, None),
            optimized: true,
        }
        .into()
    })
    .await;
    let error = Host::new(&Endpoint::new(peer.url.as_str()))
        .unwrap()
        .vms()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AccessDenied);
    assert!(
        error.to_string().contains("Hyper-V Administrators"),
        "{error}"
    );

    let peer =
        Peer::start(|_| Fault::new(Subcode::DestinationUnreachable, "no such namespace").into())
            .await;
    let error = Host::new(&Endpoint::new(peer.url.as_str()))
        .unwrap()
        .vms()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("no Hyper-V host"), "{error}");
}

#[tokio::test]
async fn a_crowded_place_of_a_disk_is_asked_for_in_small_pieces_and_the_rest_in_large_ones() {
    const GIB: u64 = 1 << 30;
    // Every MiB of the first GiB has changed; a reply holds 100 ranges.
    let peer = Peer::start(|request| match &request.operation {
        Operation::Invoke { method, parameters } => {
            let (offset, len) = (
                parameters.u64("ByteOffset").unwrap(),
                parameters.u64("ByteLength").unwrap(),
            );
            let changed: Vec<u64> = (offset >> 20..(offset + len).min(GIB) >> 20)
                .map(|mib| mib << 20)
                .collect();
            if changed.len() > 100 {
                return Fault::encoding_limit("too large").into();
            }
            let values =
                |values: Vec<u64>| Value::Array(values.into_iter().map(Value::U64).collect());
            let outputs = Properties::new()
                .with("ProcessedByteLength", len)
                .with("ChangedByteLengths", values(vec![4096; changed.len()]))
                .with("ChangedByteOffsets", values(changed))
                .with("ReturnValue", 0_u32);
            Reply::Invoke {
                method: method.clone(),
                outputs,
            }
            .into()
        }
        _ => {
            let service = Instance::new("Msvm_ImageManagementService").with("Name", "vhdsvc");
            let items = Items {
                items: vec![Item::Object(service)],
                context: None,
                end: true,
            };
            Reply::Enumerate {
                batch: items,
                optimized: true,
            }
            .into()
        }
    })
    .await;
    let host = Host::new(&Endpoint::new(peer.url.as_str())).unwrap();
    let changes = host
        .changed_ranges(r"C:\a.vhdx", "id", 64 * GIB)
        .await
        .unwrap();
    let Changes::Ranges(ranges) = changes else {
        panic!("{changes:?}")
    };
    assert_eq!(
        (ranges.as_slice().len(), ranges.bytes()),
        (1024, 1024 * 4096)
    );
    assert!(
        peer.methods().len() < 80,
        "{} questions",
        peer.methods().len()
    );
}
