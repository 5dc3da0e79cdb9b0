//! Who is let in where nobody counts what requests hold.

use plimsoll_core::{BoxError, Rejected};
use plimsoll_memory::{
    Admission, AdmissionConfig, AdmissionLayer, AdmissionMode, AdmissionStats, Ask, BudgetKey,
    admission::Meter,
};
use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::advance;
use tokio_test::{assert_pending, assert_ready_err, task};
use tower::{Layer as _, Service as _, service_fn};

const LINE: u64 = 1 << 30;

struct Gauge(Arc<AtomicU64>);

impl Meter for Gauge {
    fn used(&mut self) -> Option<u64> {
        Some(self.0.load(Relaxed))
    }
}

fn reserved(stats: &AdmissionStats) -> (u64, u64, usize) {
    (stats.growth, stats.reserved_for_small, stats.running)
}

#[tokio::test(start_paused = true)]
async fn what_is_used_alone_decides_and_nothing_is_reserved() {
    super::listen();
    let config = AdmissionConfig::new().mode(AdmissionMode::Enforce);
    let admission = Admission::with_config(&config).unwrap();
    let used = Arc::new(AtomicU64::new(0));
    admission.set_meter(Gauge(used.clone()));
    admission.set_line(Some(LINE));
    let ask = |bytes: &u64| Ask {
        declared: Some(*bytes),
        key: Some(BudgetKey::new("one")),
        ..Ask::default()
    };
    let layer = AdmissionLayer::new("route", &admission).ask(ask);
    let mut service = layer.layer(service_fn(|_: u64| pending::<Result<(), BoxError>>()));
    let mut held: Vec<_> = (0..100).map(|_| task::spawn(service.call(0))).collect();
    for call in &mut held {
        assert_pending!(call.poll());
    }
    let stats = admission.stats();
    assert_eq!((reserved(&stats), stats.waiting), ((0, 0, 0), 0));

    // Those wait who do not fit, by what they say of themselves.
    used.store(LINE - 1_000, Relaxed);
    advance(Duration::from_millis(20)).await;
    let mut fits = task::spawn(service.call(1_000));
    let mut waits = task::spawn(service.call(1_001));
    assert_pending!(fits.poll());
    assert_pending!(waits.poll());
    assert_eq!(admission.stats().waiting, 1);
    used.store(LINE - 1_001, Relaxed);
    advance(Duration::from_millis(1)).await;
    admission.tick();
    assert!(waits.is_woken());
    assert_pending!(waits.poll());

    used.store(LINE + 1, Relaxed);
    advance(Duration::from_millis(20)).await;
    let mut late = task::spawn(service.call(0));
    assert_pending!(late.poll());
    advance(Duration::from_secs(1)).await;
    let error = assert_ready_err!(late.poll());
    assert!(Rejected::find(&*error).is_some());
    drop((held, fits, waits, late));
    let stats = admission.stats();
    assert_eq!((reserved(&stats), stats.waiting), ((0, 0, 0), 0));
    assert_eq!(admission.routes()[0].expected, None);
}
