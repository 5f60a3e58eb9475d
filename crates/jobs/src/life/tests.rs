//! Cases of a job's life, and random ones.

use proptest::prelude::*;

use model::AgentId;

use super::*;

fn at(secs: u64) -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000).plus_secs(secs)
}

fn rules() -> Rules {
    Rules {
        queue_secs: 1000,
        ..Rules::default()
    }
}

fn owner() -> Owner {
    Owner::Server("a".into())
}

fn error(kind: ErrorKind) -> JobError {
    JobError {
        kind,
        code: "x".into(),
        message: "x".into(),
        hint: None,
    }
}

fn running() -> Life {
    Life::queued(&rules(), None, at(0), at(0))
        .claim(&rules(), owner(), None, at(0))
        .unwrap()
        .0
}

#[track_caller]
fn check(result: Result<Life, TransitionError>, expected: StateName) -> Life {
    let life = result.unwrap();
    assert_eq!(life.state.name(), expected);
    life
}

#[test]
fn a_lease_is_renewed_until_it_is_over() {
    let life = running();
    let life = check(life.renew(&rules(), Fence(1), at(59)), StateName::Running);
    let JobState::Running { lease } = &life.state else {
        panic!()
    };
    assert_eq!(lease.ends, at(119));
    for (fence, now) in [(1, 119), (0, 60), (2, 60)] {
        let error = life.renew(&rules(), Fence(fence), at(now)).unwrap_err();
        assert!(matches!(error, TransitionError::Fenced { .. }), "{error}");
    }
}

#[test]
fn a_lost_lease_queues_again_until_attempts_run_out() {
    let mut life = running();
    for attempt in 1..rules().max_attempts {
        let now = at(1000 * u64::from(attempt));
        life = check(
            life.lose_lease(&rules(), LostLease::RanOut, now),
            StateName::Queued,
        );
        life = life.claim(&rules(), owner(), None, now).unwrap().0;
        assert_eq!(life.fence, Fence(u64::from(attempt) + 1));
    }
    let life = check(
        life.lose_lease(&rules(), LostLease::RanOut, at(100_000)),
        StateName::Failed,
    );
    assert!(
        life.lose_lease(&rules(), LostLease::HolderRestarted, at(100_001))
            .is_err()
    );
}

#[test]
fn a_lease_that_holds_is_lost_only_by_a_restart_of_its_holder() {
    let life = running();
    assert_eq!(
        life.lose_lease(&rules(), LostLease::RanOut, at(59)),
        Err(TransitionError::LeaseHolds { ends: at(60) })
    );
    check(
        life.lose_lease(&rules(), LostLease::HolderRestarted, at(59)),
        StateName::Queued,
    );
}

#[test]
fn cancelling_works_in_every_state() {
    let queued = Life::queued(&rules(), None, at(0), at(0));
    let (cancelled, effect) = queued.cancel(at(1)).unwrap();
    assert_eq!(
        (cancelled.state.name(), effect),
        (StateName::Cancelled, CancelEffect::Cancelled)
    );
    assert!(cancelled.claim(&rules(), owner(), None, at(2)).is_err());
    let (asked, effect) = running().cancel(at(1)).unwrap();
    assert_eq!(
        (asked.state.name(), effect),
        (StateName::Running, CancelEffect::Requested)
    );
    check(
        asked.finish(&rules(), Fence(1), Ending::Cancelled, at(2)),
        StateName::Cancelled,
    );
    // What was done was done.
    check(
        asked.finish(&rules(), Fence(1), Ending::Succeeded, at(2)),
        StateName::Succeeded,
    );
    // No second attempt of what nobody wants any more.
    check(
        asked.finish(
            &rules(),
            Fence(1),
            Ending::Failed(error(ErrorKind::Retry)),
            at(2),
        ),
        StateName::Cancelled,
    );
    check(
        asked.lose_lease(&rules(), LostLease::RanOut, at(70)),
        StateName::Cancelled,
    );
    assert_eq!(
        running().finish(&rules(), Fence(1), Ending::Cancelled, at(2)),
        Err(TransitionError::NotAskedToCancel)
    );
}

#[test]
fn a_failure_that_may_pass_waits_before_the_next_attempt() {
    let life = check(
        running().finish(
            &rules(),
            Fence(1),
            Ending::Failed(error(ErrorKind::Retry)),
            at(10),
        ),
        StateName::Queued,
    );
    assert_eq!(
        life.claim(&rules(), owner(), None, at(39)).unwrap_err(),
        TransitionError::MustWait {
            cause: WaitCause::Window
        }
    );
    let (life, lease) = life.claim(&rules(), owner(), None, at(40)).unwrap();
    assert_eq!((lease.fence, lease.attempt), (Fence(2), 2));
    check(
        life.finish(
            &rules(),
            Fence(2),
            Ending::Failed(error(ErrorKind::Full)),
            at(41),
        ),
        StateName::Failed,
    );
}

#[test]
fn a_host_that_is_not_ready_never_fails_a_job() {
    let mut life = running();
    let mut clock = 0;
    for _ in 0..10 {
        let ending = Ending::NotReady {
            reason: "vmms is down".into(),
        };
        life = check(
            life.finish(&rules(), life.fence, ending, at(clock)),
            StateName::Queued,
        );
        let waits = life.wait_for(Some(WaitCause::Window)).unwrap();
        assert_eq!(
            waits.state, life.state,
            "the reason is kept while it pauses"
        );
        clock += 30;
        life = life.claim(&rules(), owner(), None, at(clock)).unwrap().0;
    }
    assert_eq!((life.failures, life.fence), (0, Fence(11)));
    let ending = Ending::NotReady {
        reason: "vmms is down".into(),
    };
    let life = check(
        life.finish(&rules(), life.fence, ending, at(clock)),
        StateName::Queued,
    );
    check(life.expire(at(1000)), StateName::Expired);
}

#[test]
fn queue_time_ends() {
    let life = Life::queued(&rules(), Some(WaitCause::AgentOffline), at(0), at(0));
    assert!(life.expire(at(999)).is_err());
    assert_eq!(
        life.claim(&rules(), owner(), None, at(1000)).unwrap_err(),
        TransitionError::TooOld
    );
    let life = check(life.expire(at(1000)), StateName::Expired);
    assert!(life.claim(&rules(), owner(), None, at(1)).is_err());
    assert!(life.cancel(at(1001)).is_err());
}

#[test]
fn owners_are_read_back() {
    for owner in [Owner::Agent(AgentId::random()), Owner::Server("a:b".into())] {
        assert_eq!(owner.to_string().parse::<Owner>().unwrap(), owner);
    }
    assert!("agent:bob".parse::<Owner>().is_err());
}

#[derive(Clone, Debug)]
enum Event {
    Claim { busy: bool },
    Renew { fence: u64 },
    Finish { fence: u64, ending: u8 },
    Lose { restarted: bool },
    Cancel,
    Expire,
    Committed,
}

fn event() -> impl Strategy<Value = (u64, Event)> {
    let event = prop_oneof![
        4 => any::<bool>().prop_map(|busy| Event::Claim { busy }),
        3 => (0u64..5).prop_map(|fence| Event::Renew { fence }),
        3 => (0u64..5, 0u8..6).prop_map(|(fence, ending)| Event::Finish { fence, ending }),
        2 => any::<bool>().prop_map(|restarted| Event::Lose { restarted }),
        1 => Just(Event::Cancel),
        1 => Just(Event::Expire),
        1 => Just(Event::Committed),
    ];
    (0u64..100, event)
}

fn apply(life: &Life, event: &Event, now: Timestamp) -> Result<Life, TransitionError> {
    let rules = rules();
    match event {
        Event::Claim { busy } => life
            .claim(&rules, owner(), busy.then_some(WaitCause::VmBusy), now)
            .map(|(life, _)| life),
        Event::Renew { fence } => life.renew(&rules, Fence(*fence), now),
        Event::Finish { fence, ending } => {
            let ending = match ending {
                0 => Ending::Succeeded,
                1 => Ending::Warnings,
                2 => Ending::Cancelled,
                3 => Ending::Failed(error(ErrorKind::Retry)),
                4 => Ending::NotReady {
                    reason: "down".into(),
                },
                _ => Ending::Failed(error(ErrorKind::Corrupt)),
            };
            life.finish(&rules, Fence(*fence), ending, now)
        }
        Event::Lose { restarted: true } => life.lose_lease(&rules, LostLease::HolderRestarted, now),
        Event::Lose { restarted: false } => life.lose_lease(&rules, LostLease::RanOut, now),
        Event::Cancel => life.cancel(now).map(|(life, _)| life),
        Event::Expire => life.expire(now),
        Event::Committed => life.end_after_commit(now),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn no_events_break_a_life(events in proptest::collection::vec(event(), 1..60)) {
        let mut life = Life::queued(&rules(), None, at(0), at(0));
        let mut clock = 0;
        let mut holder: Option<Fence> = None;
        for (pause, event) in &events {
            clock += pause;
            let now = at(clock);
            let before = life.clone();
            match apply(&life, event, now) {
                Err(_) => continue,
                Ok(next) => life = next,
            }
            prop_assert!(!before.state.name().is_final(), "{before:?} became {life:?}");
            prop_assert!(life.fence >= before.fence, "the fence shrank");
            prop_assert!(life.failures <= rules().max_attempts);
            let now_held = match &life.state {
                JobState::Running { lease } => Some(lease.fence),
                JobState::Queued { .. }
                | JobState::Succeeded { .. }
                | JobState::Warnings { .. }
                | JobState::Failed { .. }
                | JobState::Cancelled { .. }
                | JobState::Expired { .. }
                | JobState::Skipped { .. } => None,
            };
            if let Some(fence) = now_held {
                // Either the same holder as before, or a new one with a greater fence after nobody.
                prop_assert!(holder == Some(fence) || (holder.is_none() && fence > before.fence));
                prop_assert_eq!(fence, life.fence);
            }
            if let Event::Finish { fence, .. } | Event::Renew { fence } = event {
                prop_assert_eq!(Some(Fence(*fence)), holder, "an old fence wrote");
            }
            holder = now_held;
        }
    }
}
