use super::*;
use crate::{AdmissionStats, admission::trial::Trial};
use std::{
    panic::{self, AssertUnwindSafe},
    thread,
    time::Duration,
};
use tokio::time::Instant;

const MIB: u64 = 1 << 20;
const LINE: u64 = 1 << 30;

/// So much is used.
struct Uses(u64);

impl Meter for Uses {
    fn used(&mut self) -> Option<u64> {
        Some(self.0)
    }

    fn tracked(&mut self) -> Option<u64> {
        None
    }
}

/// One that enforces, while so much is used.
fn ledger(used: u64) -> Ledger {
    let ledger = Ledger::new(Clock::new(), Box::new(Uses(used)));
    ledger.configure(&AdmissionConfig::new().mode(AdmissionMode::Enforce));
    ledger.set_line(Some(LINE));
    ledger
}

fn asking(learned: &Arc<Learned>) -> Asking<'_> {
    Asking {
        name: Name::from_static("it"),
        learned,
        class: 0,
        standing: Standing::Asks(Priority::Normal),
        key: None,
        declared: 0,
        is_counted: true,
    }
}

fn stats(ledger: &Ledger) -> AdmissionStats {
    let mut stats = AdmissionStats::default();
    ledger.counts.add_to(&mut stats);
    stats
}

#[test]
fn who_is_refused_for_tasks_or_descriptors_is_told_to_come_again_soon() {
    let ledger = ledger(0);
    // Hardly anything was given back lately.
    ledger.lock().drain.add(1, 1);
    let learned = Arc::new(Learned::new());
    for (scarce, reason, seconds) in [
        (Scarce::Memory, RejectReason::MemoryPressure, 60),
        (Scarce::Tasks, RejectReason::InFlightLimit, 1),
        (Scarce::Descriptors, RejectReason::InFlightLimit, 1),
    ] {
        ledger.set_shed(1.0, scarce);
        let Answer::Refused(rejected) = ledger.admit(&asking(&learned)) else {
            panic!("it is let in");
        };
        assert_eq!(rejected.reason(), reason);
        let again = rejected.retry_after();
        assert_eq!(again, Some(Duration::from_secs(seconds)), "{scarce:?}");
        assert_eq!(ledger.counts.shed_for(scarce), 1);
    }
    assert_eq!(stats(&ledger).shed_total, 3);
}

#[test]
fn who_is_gone_when_it_would_be_let_in_was_not() {
    let ledger = ledger(LINE);
    let learned = Arc::new(Learned::new());
    let Answer::Wait(waiter, _) = ledger.admit(&asking(&learned)) else {
        panic!("it has to wait");
    };
    assert!(waiter.let_in(Hold::Nothing).is_ok());
    let trial = Trial {
        reserved: 4 * MIB,
        risked: MIB,
    };
    for trial in [None, Some(trial)] {
        let mut book = ledger.lock();
        ledger.let_one_in(&mut book, &waiter, 4 * MIB, trial, 0, &mut Vec::new());
        assert_eq!(book.running.count(), 0);
    }
    assert_eq!((stats(&ledger).admitted, stats(&ledger).tried), (0, 0));
}

#[test]
fn who_would_come_alone_would_not_wait() {
    let observe = AdmissionConfig::new();
    for (config, waits) in [
        (observe.clone(), 1),
        (observe.mode(AdmissionMode::Enforce), 0),
    ] {
        let ledger = ledger(0);
        ledger.configure(&config);
        let learned = Arc::new(Learned::new());
        learned.record(LINE, 1, 0.98, None, 0);
        let alone = ledger.admit(&asking(&learned));
        assert!(matches!(alone, Answer::In(_)));
        assert_eq!(stats(&ledger).would_wait, 0);
        let other = ledger.admit(&asking(&learned));
        assert_eq!(matches!(other, Answer::In(_)), waits == 1);
        assert_eq!(stats(&ledger).would_wait, waits);
    }
}

#[test]
fn those_of_whom_nothing_is_known_are_not_looked_at_while_none_may_come() {
    let ledger = ledger(0);
    let [vast, new] = [(); 2].map(|()| Arc::new(Learned::new()));
    vast.record(900 * MIB, 1, 0.98, None, 0);
    let enters = |learned| match ledger.admit(&asking(learned)) {
        Answer::In(hold) => hold,
        Answer::Wait(..) | Answer::Refused(_) => panic!("it is not let in"),
    };
    let _inside = [enters(&vast), enters(&new)];
    assert_eq!(stats(&ledger).tried, 1);
    let Answer::Wait(_waits, _) = ledger.admit(&asking(&new)) else {
        panic!("it waits for what the one before it shows");
    };
    // Who looks at it sees that it does not come out of its turn any more.
    new.record(900 * MIB, 1, 0.98, None, 0);
    ledger.set_shed(0.1, Scarce::Memory);
    assert_eq!(ledger.lock().lanes.untried(), 1);
    ledger.set_shed(0.0, Scarce::Memory);
    assert_eq!(ledger.lock().lanes.untried(), 0);
}

#[test]
fn of_two_who_set_the_line_at_the_same_time_the_last_counts_in_all_that_follows_from_it() {
    let ledger = ledger(0);
    let lines = [Some(LINE), Some(LINE / 4), None];
    two_at_once(
        |round, turn| ledger.set_line(lines[(round + turn) % 3]),
        |round| {
            let line = ledger.line();
            let lasts = [0, 1].map(|turn| lines[(round + turn) % 3]);
            assert!(lasts.contains(&line), "{line:?} is none of {lasts:?}");
            assert_follows(&ledger, line);
        },
    );
    // One who sets it when all others have counts, and one who sets it to what it is changes nothing.
    for line in [lines[1], lines[1], lines[2], lines[0]] {
        ledger.set_line(line);
        assert_eq!(ledger.line(), line);
        assert_follows(&ledger, line);
    }
}

#[test]
fn of_two_who_have_some_shed_at_the_same_time_the_last_counts_in_all_that_follows_from_it() {
    let ledger = Ledger::new(Clock::new(), Box::new(Uses(0)));
    let shares = [0.5, 0.0];
    two_at_once(
        |round, turn| ledger.set_shed(shares[(round + turn) % 2], Scarce::Tasks),
        |_| {
            let sheds = ledger.lock().shed.share > 0.0;
            assert_eq!(ledger.sheds.load(Relaxed), sheds);
            assert_eq!(ledger.is_idle(), !sheds);
        },
    );
}

/// Has two threads do something at the same time, again and again, and looks what has come of it.
fn two_at_once(each: impl Fn(usize, usize) + Sync, look: impl Fn(usize) + Sync) {
    let (arrived, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let begin = Instant::now();
    // Both go on within some nanoseconds, which they do not if they sleep.
    let meet = |meetings: &mut usize| {
        *meetings += 2;
        arrived.fetch_add(1, Relaxed);
        while arrived.load(Relaxed) < *meetings {
            thread::yield_now();
        }
    };
    let run = |turn| {
        let (mut meetings, mut looked) = (0, Ok(()));
        for round in 0..200_000 {
            meet(&mut meetings);
            if is_over.load(Relaxed) {
                break;
            }
            each(round, turn);
            meet(&mut meetings);
            if turn == 0 {
                looked = panic::catch_unwind(AssertUnwindSafe(|| look(round)));
                // Where others have the processors, few of them take long.
                let passed = Instant::now().saturating_duration_since(begin);
                let is_late = passed > Duration::from_secs(5);
                is_over.store(looked.is_err() || is_late, Relaxed);
            }
        }
        looked
    };
    let looked = thread::scope(|scope| {
        scope.spawn(|| run(1));
        run(0)
    });
    assert!(looked.is_ok(), "as told above");
}

/// All that is worked out when a line is set is of this one.
fn assert_follows(ledger: &Ledger, line: Option<u64>) {
    let word = line.unwrap_or(u64::MAX);
    let small = (word / SMALL).min(u32::MAX.into());
    assert!(ledger.is_small(small) && !ledger.is_small(small + 1));
    assert_eq!(ledger.guess(), (word / GUESS).min(MOST));
    assert_eq!(ledger.is_idle(), line.is_none());
    let chunk = 1_u64 << ledger.chunk.load(Relaxed);
    assert!((chunk / 2..=chunk).contains(&(word / CHUNK)), "{chunk}");
}
