use super::*;

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
    let mut stats = super::super::AdmissionStats::default();
    ledger.counts.add_to(&mut stats);
    assert_eq!(stats.shed_total, 3);
}
