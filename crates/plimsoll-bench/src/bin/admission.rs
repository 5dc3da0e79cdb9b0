//! What it costs a small request to be let in, which takes no lock, against the same request without
//! admission.

use clap::Parser;
use plimsoll_alloc::TrackingAllocator;
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
    let small = admitted("small", 4 << 10)?;
    for (name, weigher) in [("none", &alone), ("small", &small)] {
        let one = weigher.clone();
        let single = suite.single(name, move |ops| requests(&one, ops));
        single.versus("none 1T");
        let two = weigher.clone();
        let double = suite.double(name, move |_, ops| requests(&two, ops));
        double.versus(&format!("{name} 1T"));
    }
    suite.run()
}

/// Requests of a route that hold so much.
fn admitted(name: &'static str, peak: usize) -> Result<Arc<Weigher>, Error> {
    let config = AdmissionConfig::new().mode(AdmissionMode::Enforce);
    let admission = Admission::with_config(&config)?;
    admission.set_meter(Fixed);
    admission.set_line(Some(LINE));
    let weigher = Weigher::new(name.into(), HeavyLog::none(), None).admitted_by(&admission);
    for _ in 0..1_000 {
        let weighing = begin(&weigher);
        let entered = weighing.as_ref().map(|weighing| weighing.enter());
        drop(black_box(Vec::<u8>::with_capacity(peak)));
        drop(entered);
    }
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

fn requests(weigher: &Weigher, ops: u64) {
    for _ in 0..ops {
        drop(black_box(begin(weigher)));
    }
}
