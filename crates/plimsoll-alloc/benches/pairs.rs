//! quick
use plimsoll_alloc::{MemoryScope, TrackingAllocator};
use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
static T: TrackingAllocator = TrackingAllocator::system();
fn pairs<A: GlobalAlloc>(a: &A, layout: Layout, n: u64) {
    for _ in 0..n {
        unsafe {
            let p = black_box(a.alloc(black_box(layout)));
            a.dealloc(p, layout);
        }
    }
}
#[allow(clippy::disallowed_types, clippy::disallowed_methods)]
fn time(f: impl Fn(u64)) -> f64 {
    let n = 2_000_000;
    let s = std::time::Instant::now();
    f(n);
    s.elapsed().as_nanos() as f64 / n as f64
}
fn main() {
    let scope = MemoryScope::new();
    for size in [16, 64, 256, 1024, 4096, 65536] {
        let l = Layout::from_size_align(size, 8).unwrap();
        let mut r: Vec<[f64; 3]> = vec![];
        for _ in 0..9 {
            r.push([
                time(|n| pairs(&System, l, n)),
                time(|n| pairs(&T, l, n)),
                scope.run(|| time(|n| pairs(&T, l, n))),
            ]);
        }
        let med = |f: &dyn Fn(&[f64; 3]) -> f64| {
            let mut v: Vec<f64> = r.iter().map(f).collect();
            v.sort_by(f64::total_cmp);
            v[v.len() / 2]
        };
        println!(
            "{size}: system {:.2} off {:.2} ({:.2}) on {:.2} ({:.2})",
            med(&|r| r[0]),
            med(&|r| r[1]),
            med(&|r| r[1] / r[0]),
            med(&|r| r[2]),
            med(&|r| r[2] / r[0])
        );
        let two = |f: &(dyn Fn(u64) + Sync)| {
            let mut v: Vec<f64> = (0..7)
                .map(|_| {
                    std::thread::scope(|s| {
                        let hs: Vec<_> = (0..2).map(|_| s.spawn(|| time(f))).collect();
                        hs.into_iter()
                            .map(|h| h.join().unwrap())
                            .fold(0.0, f64::max)
                    })
                })
                .collect();
            v.sort_by(f64::total_cmp);
            v[3]
        };
        let a = two(&|n| pairs(&System, l, n));
        let b = two(&|n| scope.run(|| pairs(&T, l, n)));
        println!("   2T system {a:.2} one scope {b:.2} ({:.2})", b / a);
    }
}
