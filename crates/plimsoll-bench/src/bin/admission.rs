//! What it costs a request to be let in, against the same request without admission: a small one, which
//! takes no lock, and a large one, which is counted by itself.

use clap::Parser;
use plimsoll_alloc::{MemoryScope, TrackingAllocator};
use plimsoll_bench::{Error, Options, Suite};
use plimsoll_memory::{
    Admission, AdmissionConfig, AdmissionMode, Admitted, Ask, HeavyLog, MustAsk, Weigher, Weighing,
    admission::Meter,
};
use std::{hint::black_box, sync::Arc};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

#[derive(Parser)]
#[command(about)]
struct Args {
    #[command(flatten)]
    options: Options,
}

const LINE: u64 = 460 << 20;

const SMALL: u64 = 4 << 10;
const LARGE: u64 = 4 << 20;

/// What is used, far from the line.
struct Fixed;

impl Meter for Fixed {
    fn used(&mut self) -> Option<u64> {
        Some(100 << 20)
    }
}

fn main() -> Result<(), Error> {
    let mut suite = Suite::new("Admission", Args::parse().options);
    let alone = Arc::new(Weigher::new("alone".into(), HeavyLog::none(), None));
    let small = admitted("small", SMALL)?;
    let large = admitted("large", LARGE)?;
    for (name, weigher, held, baseline) in [
        ("none", &alone, 0, "none"),
        ("small", &small, 0, "none"),
        ("holds 4 MiB, none", &alone, LARGE, "holds 4 MiB, none"),
        ("holds 4 MiB, large", &large, LARGE, "holds 4 MiB, none"),
    ] {
        let one = weigher.clone();
        let single = suite.single(name, move |ops| requests(&one, held, ops));
        single.versus(&format!("{baseline} 1T"));
        let two = weigher.clone();
        let double = suite.double(name, move |_, ops| requests(&two, held, ops));
        double.versus(&format!("{name} 1T"));
    }
    suite.run()
}

/// Requests of a route that hold so much.
fn admitted(name: &'static str, peak: u64) -> Result<Arc<Weigher>, Error> {
    let config = AdmissionConfig::new().mode(AdmissionMode::Enforce);
    let admission = Admission::with_config(&config)?;
    admission.set_meter(Fixed);
    admission.set_line(Some(LINE));
    let weigher = Weigher::new(name.into(), HeavyLog::none(), None).admitted_by(&admission);
    requests(&weigher, peak, 1_000);
    Ok(Arc::new(weigher))
}

fn begin(weigher: &Weigher) -> Option<Weighing> {
    let began = weigher.now();
    weigher
        .begin_at_once(None, began, None)
        .unwrap_or_else(|MustAsk| match weigher.admit(&Ask::default()) {
            Admitted::Now(permit) => weigher.begin_admitted(None, began, permit),
            Admitted::Later(_) | Admitted::Refused(_) => unreachable!("there is room"),
        })
}

fn requests(weigher: &Weigher, held: u64, ops: u64) {
    for _ in 0..ops {
        let weighing = begin(weigher);
        if held > 0 {
            let entered = weighing.as_ref().map(|weighing| weighing.enter());
            // Counted, and not allocated: what the allocator takes for so much is not what is measured.
            drop(black_box(MemoryScope::current().map(|it| it.charge(held))));
            drop(entered);
        }
        drop(black_box(weighing));
    }
}
