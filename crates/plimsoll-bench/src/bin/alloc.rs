//! What the tracking allocator costs: time of a block, of a scope, and bytes of a block.

use clap::Parser;
use mimalloc::MiMalloc;
use plimsoll_alloc::{
    MemoryGroup, MemoryScope, Mode, TrackingAllocator,
    bench::{Usable, freed_outside, pairs},
    profile::{self, Sampling},
    set_mode,
};
use plimsoll_bench::{Error, Options, Suite, Table};
use std::{
    alloc::{Layout, System},
    hint::black_box,
    pin::pin,
    task::{Context, Waker},
};
use tikv_jemallocator::Jemalloc;

static SYSTEM: TrackingAllocator<System> = TrackingAllocator::new(System);
static JEMALLOC: TrackingAllocator<Jemalloc> = TrackingAllocator::new(Jemalloc);
static MIMALLOC: TrackingAllocator<MiMalloc> = TrackingAllocator::new(MiMalloc);

const SIZES: [usize; 6] = [16, 64, 256, 1_024, 4_096, 65_536];

#[derive(Parser)]
#[command(about)]
struct Args {
    #[command(flatten)]
    options: Options,
}

fn main() -> Result<(), Error> {
    println!(
        "### Bytes of a block\n\nTaken by a block, bare and tracked.\n\n{}",
        bytes()
    );
    let options = Args::parse().options;
    let mut suite = Suite::new(
        "A block allocated and freed, a scope entered and left",
        options,
    );
    let scope = MemoryScope::new();
    blocks(&mut suite, &scope, "system", &SYSTEM);
    blocks(&mut suite, &scope, "jemalloc", &JEMALLOC);
    blocks(&mut suite, &scope, "mimalloc", &MIMALLOC);
    scopes(&mut suite);
    suite.run()
}

fn blocks<A: Usable + Sync>(
    suite: &mut Suite,
    scope: &MemoryScope,
    name: &str,
    tracking: &'static TrackingAllocator<A>,
) {
    for size in SIZES {
        let layout = Layout::array::<u64>(size / 8).expect("a small layout");
        let name = |how: &str| format!("{name} {size} B {how}");
        let bare = move |n| pairs(tracking.inner(), layout, n);
        let tracked = move |n| pairs(tracking, layout, n);
        let in_scope = {
            let scope = scope.clone();
            move |n| scope.run(|| tracked(n))
        };
        let against = name("bare 1T");
        suite.single(&name("bare"), bare);
        for (how, mode) in [("off", Mode::Off), ("counters", Mode::Counters)] {
            let in_mode = move |n| {
                set_mode(mode);
                tracked(n);
                set_mode(Mode::Precise);
            };
            suite.single(&name(how), in_mode).versus(&against);
        }
        let sampled = move |n| {
            profile::start(Sampling::new());
            tracked(n);
            profile::stop();
        };
        suite.single(&name("sampled"), sampled).versus(&against);
        suite.single(&name("tracked"), tracked).versus(&against);
        suite
            .single(&name("in a scope"), in_scope.clone())
            .versus(&against);
        suite.double(&name("bare"), move |_, n| bare(n));
        suite
            .double(&name("in one scope"), move |_, n| in_scope(n))
            .versus(&name("bare 2T"));
    }
}

fn scopes(suite: &mut Suite) {
    let scope = MemoryScope::new();
    let within = scope.clone();
    suite.single("scope entered and left", move |n| {
        for _ in 0..n {
            within.run(|| black_box(()));
        }
    });
    let group = MemoryGroup::new();
    let layout = Layout::new::<[u64; 8]>();
    for (name, scope) in [("scope", scope), ("scope of a group", group.scope())] {
        suite.single(&format!("{name}, 1 block of 64 B in it"), move |n| {
            for _ in 0..n {
                scope.run(|| pairs(&SYSTEM, layout, 1));
            }
        });
    }
    for (how, mode) in [("", Mode::Precise), (", counters", Mode::Counters)] {
        let scope = MemoryScope::new();
        let name = format!("1 block of 64 B in a scope, freed outside{how}");
        suite.single(&name, move |n| {
            set_mode(mode);
            freed_outside(&SYSTEM, &scope, layout, n);
            set_mode(Mode::Precise);
        });
    }
    suite.single("scope opened and ended", |n| {
        for _ in 0..n {
            black_box(MemoryScope::new());
        }
    });
    // As requests of one route do.
    let opened = |group: MemoryGroup, blocks: u64| {
        move |n| {
            for _ in 0..n {
                let scope = group.scope();
                if blocks > 0 {
                    scope.run(|| pairs(&SYSTEM, layout, blocks));
                }
                black_box(&scope);
            }
        }
    };
    for (name, blocks) in [
        ("scope of a group opened and ended", 0),
        (
            "scope of a group opened and ended, 1 block of 64 B in it",
            1,
        ),
    ] {
        suite.single(name, opened(group.clone(), blocks));
        let both = opened(group.clone(), blocks);
        suite
            .double(name, move |_, n| both(n))
            .versus(&format!("{name} 1T"));
    }
    let mut future = Box::pin(MemoryScope::new().scoped(std::future::pending::<()>()));
    suite.single("future polled in a scope", move |n| {
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..n {
            let _ = black_box(pin!(&mut future).poll(&mut cx));
        }
    });
}

fn bytes() -> Table {
    let mut table = Table::new(&[
        "asked for",
        "system",
        "tracked",
        "jemalloc",
        "tracked",
        "mimalloc",
        "tracked",
    ]);
    let mut size = 16;
    while size <= 1 << 20 {
        for size in [size, size + size / 2] {
            let layout = Layout::array::<u64>(size / 8).expect("a small layout");
            let cell = |bytes: Option<usize>| bytes.map_or_else(String::new, |n| n.to_string());
            table.row([
                size.to_string(),
                cell(System.usable(layout)),
                cell(SYSTEM.taken(layout)),
                cell(Jemalloc.usable(layout)),
                cell(JEMALLOC.taken(layout)),
                cell(MiMalloc.usable(layout)),
                cell(MIMALLOC.taken(layout)),
            ]);
        }
        size *= 2;
    }
    table
}
