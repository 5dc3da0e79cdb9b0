//! What scopes say they hold, with the allocator installed. These run side by side: each looks at
//! its own scopes.
#![cfg(not(plimsoll_loom))]
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use plimsoll_alloc::{
    Entered, GroupId, MemoryGroup, MemoryScope, MemoryUsage, Retained, Scoped, TrackingAllocator,
    WeakScope, each_retained, untracked,
};
use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    hint::black_box,
    mem,
    panic::{self, AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::{Pin, pin},
    sync::{
        Barrier, Once,
        atomic::{
            AtomicBool, AtomicU32,
            Ordering::{Acquire, Relaxed, Release, SeqCst},
        },
        mpsc,
    },
    task::{Context, Poll, Waker},
    thread,
};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

const BATCH: u64 = 64 << 10;

/// So many bytes on the heap, in one block.
fn bytes(len: usize) -> Vec<u8> {
    black_box(Vec::with_capacity(black_box(len)))
}

fn live(scope: &MemoryScope) -> u64 {
    scope.usage().live
}

fn retained(group: &MemoryGroup) -> [u64; 2] {
    let Retained { scopes, bytes, .. } = group.retained();
    [scopes, bytes]
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Pending once.
fn yield_now() -> impl Future<Output = ()> {
    let mut waited = false;
    poll_fn(move |_| match mem::replace(&mut waited, true) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
}

// === Whose a block is ===

#[test]
fn block_belongs_to_the_scope_it_was_allocated_in_wherever_it_is_freed() {
    let [one, two] = [(); 2].map(|()| MemoryScope::new());
    let kept = [(); 3].map(|()| one.run(|| bytes(1_000)));
    let theirs = two.run(|| bytes(77));
    assert_eq!([live(&one), live(&two)], [3_000, 77]);
    let [in_its_own, in_another, in_none] = kept;
    one.run(|| drop(in_its_own));
    assert_eq!([live(&one), live(&two)], [2_000, 77]);
    two.run(|| drop(in_another));
    assert_eq!([live(&one), live(&two)], [1_000, 77]);
    drop(in_none);
    assert_eq!([live(&one), live(&two)], [0, 77]);
    drop(theirs);
    assert_eq!([one.usage().allocated, two.usage().allocated], [3_000, 77]);
}

#[test]
fn block_can_be_freed_by_another_thread_and_grow_there() {
    let scope = MemoryScope::new();
    for len in [100, 5_000, 200_000] {
        let mut one = scope.run(|| bytes(len));
        let two = scope.run(|| bytes(len));
        let one = thread::scope(|threads| {
            let other = threads.spawn(move || {
                one.reserve_exact(2 * len);
                drop(two);
                one
            });
            other.join().unwrap()
        });
        assert_eq!(live(&scope), one.capacity() as u64);
        drop(one);
        assert_eq!(live(&scope), 0);
    }
}

#[test]
fn freeing_the_blocks_of_another_scope_is_no_room_for_ones_own() {
    let [one, two] = [(); 2].map(|()| MemoryScope::new());
    let kept = one.run(|| bytes(1 << 20));
    two.run(|| {
        drop(kept);
        let own = bytes(300);
        assert_eq!(live(&two), 300);
        assert_eq!(two.usage().peak, 300);
        drop(own);
    });
    assert_eq!(live(&one), 0);
}

#[test]
fn untracked_work_belongs_to_no_scope_and_its_end_to_the_one_before() {
    let scope = MemoryScope::new();
    let shared = scope.run(|| {
        let shared = untracked(|| {
            assert!(MemoryScope::current().is_none());
            bytes(10_000)
        });
        assert_eq!(live(&scope), 0);
        let own = bytes(5);
        assert_eq!(live(&scope), 5);
        drop(own);
        shared
    });
    scope.run(|| drop(shared));
    assert_eq!(scope.usage().allocated, 5);
    assert_eq!(live(&scope), 0);
}

#[test]
fn work_on_another_thread_is_of_the_scope_if_it_is_entered_there() {
    let scope = MemoryScope::new();
    let handle = scope.clone();
    let (outside, inside) = scope.run(|| {
        untracked(|| thread::spawn(move || (bytes(1_000), handle.run(|| bytes(50)))))
            .join()
            .unwrap()
    });
    assert_eq!(live(&scope), 50);
    drop((outside, inside));
    assert_eq!(live(&scope), 0);
}

// === What is counted ===

#[test]
fn growth_of_a_buffer_is_one_block_at_its_longest() {
    let scope = MemoryScope::new();
    scope.run(|| {
        let mut buffer = Vec::new();
        for n in 0..131_072 {
            buffer.push(n as u8);
        }
        drop(black_box(buffer));
    });
    let MemoryUsage { live, peak, .. } = scope.usage();
    assert_eq!([live, peak], [0, 131_072]);
}

#[test]
fn peak_below_a_batch_is_exact_on_one_thread() {
    let scope = MemoryScope::new();
    let kept = scope.run(|| bytes(10));
    scope.run(|| drop(bytes(60_000)));
    scope.run(|| drop(bytes(500)));
    assert_eq!(scope.usage().peak, 60_010);
    assert_eq!(scope.usage().allocated, 60_510);
    drop(kept);
    assert_eq!(scope.usage().peak, 60_010);
}

#[test]
fn zeroed_and_aligned_blocks_are_counted_and_are_what_they_should_be() {
    #[repr(align(4096))]
    struct Page([u8; 8_192]);
    #[repr(align(64))]
    struct Line([u8; 64]);

    let scope = MemoryScope::new();
    scope.run(|| {
        let zeroed = black_box(vec![0_u8; 3_000]);
        assert!(zeroed.iter().all(|byte| *byte == 0));
        assert_eq!(live(&scope), 3_000);
        let page = black_box(Box::new(Page([1; 8_192])));
        assert_eq!(live(&scope), 3_000 + 8_192);
        let line = black_box(Box::new(Line([1; 64])));
        assert_eq!(live(&scope), 3_000 + 8_192 + 64);
        assert!((&raw const *page).addr().is_multiple_of(4_096));
        assert!((&raw const *line).addr().is_multiple_of(64));
        assert_eq!(page.0[8_191] + line.0[63], 2);
    });
    assert_eq!(live(&scope), 0);
}

#[test]
fn thread_in_a_scope_tells_what_it_has_once_that_is_more_than_a_batch() {
    let scope = MemoryScope::new();
    let step = AtomicU32::new(0);
    // Waiting like this allocates nothing.
    let wait_for = |wanted| {
        while step.load(SeqCst) != wanted {
            thread::yield_now();
        }
    };
    let next = |now| {
        step.store(now, SeqCst);
        wait_for(now + 1);
    };
    thread::scope(|threads| {
        threads.spawn(|| {
            scope.run(|| {
                let most = bytes(BATCH as usize);
                next(1);
                let one_more = bytes(1);
                next(3);
                drop(most);
                next(5);
                drop(one_more);
                next(7);
            });
        });
        let seen = [1, 3, 5].map(|now| {
            wait_for(now);
            let seen = live(&scope);
            step.store(now + 1, SeqCst);
            seen
        });
        assert_eq!(seen, [0, BATCH + 1, BATCH + 1]);
        wait_for(7);
        let told = live(&scope);
        step.store(8, SeqCst);
        assert_eq!(told, 0);
    });
}

#[test]
fn others_know_all_but_a_batch_of_what_a_thread_in_the_scope_has() {
    let scope = MemoryScope::new();
    let (told, go_on) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|threads| {
        threads.spawn(|| {
            scope.run(|| {
                let kept: Vec<_> = (0..100).map(|_| bytes(4_000)).collect();
                told.store(true, Release);
                while !go_on.load(Relaxed) {
                    thread::yield_now();
                }
                drop(kept);
            });
        });
        while !told.load(Acquire) {
            thread::yield_now();
        }
        let seen = live(&scope);
        go_on.store(true, Relaxed);
        assert!(
            (400_000 - BATCH..=400_000 + BATCH).contains(&seen),
            "{seen}"
        );
    });
    assert_eq!(live(&scope), 0);
    assert!(scope.usage().peak >= 400_000);
}

#[test]
fn scope_is_counted_the_same_by_several_threads_at_once() {
    const THREADS: usize = 4;
    const ROUNDS: usize = if cfg!(miri) { 20 } else { 20_000 };
    let scope = MemoryScope::new();
    let kept: Vec<_> = thread::scope(|threads| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                threads.spawn(|| {
                    (0..ROUNDS).for_each(|n| scope.run(|| drop(bytes(1 + n % 5_000))));
                    scope.run(|| bytes(1_000))
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(live(&scope), 4_000);
    let once: u64 = (0..ROUNDS).map(|n| 1 + n as u64 % 5_000).sum();
    assert_eq!(scope.usage().allocated, 4 * (once + 1_000));
    drop(kept);
    assert_eq!(live(&scope), 0);
}

// === Entering and leaving ===

#[test]
fn scopes_nest_and_restore_the_one_outside() {
    let scopes: Vec<_> = (0..64).map(|_| MemoryScope::new()).collect();
    fn nest(scopes: &[MemoryScope], kept: &mut Vec<Vec<u8>>) {
        let Some((scope, inner)) = scopes.split_first() else {
            return;
        };
        let _entered = scope.enter();
        kept.push(bytes(10 + scopes.len()));
        nest(inner, kept);
        kept.push(bytes(1_000 + scopes.len()));
    }
    let mut kept = Vec::with_capacity(128);
    nest(&scopes, &mut kept);
    assert!(MemoryScope::current().is_none());
    for (n, scope) in scopes.iter().enumerate() {
        assert_eq!(live(scope), 1_010 + 2 * (64 - n as u64));
    }
    drop(kept);
    assert!(scopes.iter().all(|scope| live(scope) == 0));
}

#[test]
fn scope_that_is_entered_twice_counts_once() {
    let scope = MemoryScope::new();
    let kept = scope.run(|| (bytes(1), scope.run(|| bytes(10)), bytes(100)));
    assert_eq!(live(&scope), 111);
    assert_eq!(scope.usage().allocated, 111);
    drop(kept);
}

#[test]
fn current_scope_is_the_innermost_one() {
    assert!(MemoryScope::current().is_none());
    let [outer, inner] = [(); 2].map(|()| MemoryScope::new());
    let kept = outer.run(|| {
        let kept = inner.run(|| {
            let current = MemoryScope::current().unwrap();
            let kept = bytes(8);
            assert_eq!(live(&current), 8);
            kept
        });
        assert_eq!(MemoryScope::current().unwrap().usage().allocated, 0);
        kept
    });
    assert!(MemoryScope::current().is_none());
    drop(kept);
}

#[test]
fn panic_leaves_the_scope() {
    let scope = MemoryScope::new();
    let caught = catch_unwind(AssertUnwindSafe(|| {
        scope.run(|| {
            let _held = bytes(100);
            resume_unwind(Box::new(()));
        })
    }));
    // What it unwound with is of the scope until it is dropped.
    drop(caught.unwrap_err());
    assert!(MemoryScope::current().is_none());
    let kept = bytes(500);
    assert_eq!(live(&scope), 0);
    drop(kept);
}

#[test]
fn panic_that_is_reported_outside_of_the_scope_leaves_next_to_nothing_in_it() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |info| untracked(|| report(info))));
    });
    let scope = MemoryScope::new();
    let caught = catch_unwind(AssertUnwindSafe(|| {
        scope.run(|| panic!("as is to be expected of this test"))
    }));
    drop(caught);
    assert!(scope.usage().allocated < 4_096, "{:?}", scope.usage());
    assert_eq!(live(&scope), 0);
}

#[test]
fn forgotten_guard_leaves_the_thread_in_a_scope_that_may_end_and_harms_no_other() {
    // A thread of its own, which stays as it is.
    thread::spawn(|| {
        let group = MemoryGroup::new();
        let scope = group.scope();
        mem::forget(scope.enter());
        assert!(MemoryScope::current().is_some());
        drop(scope);
        // Of the scope that has ended, or of nobody.
        let late = bytes(200_000);
        let current = MemoryScope::current();
        let others: Vec<_> = untracked(|| (0..100).map(|_| MemoryScope::new()).collect());
        let more = bytes(300_000);
        assert!(current.is_none());
        drop((late, more));
        assert!(MemoryScope::current().is_none());
        for other in &others {
            assert_eq!(other.usage(), MemoryUsage::default());
            assert!(other.is_counted());
            other.run(|| assert_eq!(live(&MemoryScope::current().unwrap()), 0));
        }
    })
    .join()
    .unwrap();
}

#[test]
fn guards_handles_and_charges_are_sent_where_they_may_be() {
    fn send_and_sync<T: Send + Sync>() {}
    send_and_sync::<MemoryScope>();
    send_and_sync::<MemoryGroup>();
    send_and_sync::<GroupId>();
    send_and_sync::<plimsoll_alloc::Charge>();
    send_and_sync::<Scoped<()>>();
    // A guard is of its thread.
    trait Either<T> {
        fn test() {}
    }
    impl<T> Either<()> for T {}
    impl<T: Send> Either<u8> for T {}
    <Entered<'_> as Either<_>>::test();
}

#[test]
fn weak_scope_tells_what_one_holds_and_keeps_none_open() {
    let group = MemoryGroup::new();
    let scope = group.scope();
    let weak = scope.downgrade();
    let block = scope.run(|| bytes(1_000));
    assert_eq!(weak.usage(), scope.usage());
    assert_eq!(WeakScope::from_word(weak.to_word()).usage().live, 1_000);
    assert_eq!(WeakScope::from_word(0).usage(), MemoryUsage::default());
    drop(scope);
    // What is retained is held still.
    assert_eq!((retained(&group)[0], weak.usage().live), (1, 1_000));
    drop(block);
    assert_eq!((retained(&group)[0], weak.usage().live), (0, 0));
    // Whoever has its place by now is another.
    let other = group.scope();
    let _block = other.run(|| bytes(2_000));
    assert_eq!(weak.usage(), MemoryUsage::default());
}

#[test]
fn scope_can_be_dropped_on_another_thread() {
    let group = MemoryGroup::new();
    let scope = group.scope();
    let kept = scope.run(|| bytes(321));
    thread::spawn(move || drop(scope)).join().unwrap();
    assert_eq!(group.retained().bytes, 321);
    assert_eq!(group.retained().scopes, 1);
    thread::spawn(move || drop(kept)).join().unwrap();
    assert_eq!(group.retained().scopes, 0);
}

// === Futures ===

#[test]
fn future_is_polled_and_dropped_in_its_scope() {
    let scope = MemoryScope::new();
    let mut future = Box::pin(scope.clone().scoped(async {
        let held = bytes(100_000);
        yield_now().await;
        black_box(&held);
        assert!(MemoryScope::current().is_some());
        std::future::pending::<()>().await;
    }));
    assert_eq!(live(&scope), 0);
    for _ in 0..3 {
        assert!(poll(future.as_mut()).is_pending());
        assert!(MemoryScope::current().is_none());
        assert_eq!(live(&scope), 100_000);
    }
    drop(future);
    assert_eq!(live(&scope), 0);
    assert_eq!(scope.usage().peak, 100_000);
}

#[test]
fn drop_of_a_future_is_in_its_scope_polled_or_not() {
    struct OnDrop(mpsc::Sender<bool>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            let current = MemoryScope::current().is_some();
            untracked(|| self.0.send(current).unwrap());
        }
    }
    let (sender, dropped) = mpsc::channel();
    let on_drop = OnDrop(sender.clone());
    drop(MemoryScope::new().scoped(async move { drop(on_drop) }));
    assert!(dropped.recv().unwrap());
    let on_drop = OnDrop(sender);
    let mut future = Box::pin(MemoryScope::new().scoped(async move {
        let _on_drop = on_drop;
        std::future::pending::<()>().await;
    }));
    assert!(poll(future.as_mut()).is_pending());
    drop(future);
    assert!(dropped.recv().unwrap());
    assert!(MemoryScope::current().is_none());
}

#[test]
fn panic_in_a_future_leaves_its_scope() {
    let scope = MemoryScope::new();
    let mut future = Box::pin(scope.clone().scoped(async {
        let _held = bytes(1_000);
        resume_unwind(Box::new(()));
    }));
    let caught = catch_unwind(AssertUnwindSafe(|| poll(future.as_mut())));
    assert!(MemoryScope::current().is_none());
    drop(caught.unwrap_err());
    drop(future);
    assert_eq!(live(&scope), 0);
}

#[test]
fn futures_of_several_scopes_in_one_task_do_not_mix() {
    let [task, one, two] = [(); 3].map(|()| MemoryScope::new());
    let work = |scope: &MemoryScope, len: usize| {
        Box::pin(scope.clone().scoped(async move {
            let first = bytes(len);
            yield_now().await;
            (first, bytes(10 * len))
        }))
    };
    let (mut left, mut right) = (work(&one, 100), work(&two, 7));
    let joined = poll_fn(|cx| {
        let _ = bytes(1);
        let ready = [left.as_mut().poll(cx), right.as_mut().poll(cx)];
        assert_eq!(live(&MemoryScope::current().unwrap()), 0);
        match ready {
            [Poll::Ready(left), Poll::Ready(right)] => Poll::Ready((left, right)),
            _ => Poll::Pending,
        }
    });
    let mut joined = pin!(task.clone().scoped(joined));
    assert!(poll(joined.as_mut()).is_pending());
    assert_eq!([live(&one), live(&two), live(&task)], [100, 7, 0]);
    let Poll::Ready(kept) = poll(joined.as_mut()) else {
        panic!("it is ready");
    };
    assert_eq!([live(&one), live(&two), live(&task)], [1_100, 77, 0]);
    assert_eq!(task.usage().allocated, 2);
    drop(kept);
    assert_eq!([live(&one), live(&two)], [0, 0]);
}

// === Limits and charges ===

#[test]
fn limit_is_the_most_that_may_live() {
    let scope = MemoryScope::new();
    assert_eq!(scope.usage().limit, None);
    scope.set_limit(1_000);
    assert_eq!(scope.usage().limit, Some(1_000));
    scope.run(|| {
        let most = bytes(1_000);
        scope.check().unwrap();
        let more = bytes(1);
        let over = scope.check().unwrap_err();
        assert_eq!(
            over.to_string(),
            "1001 bytes are held, and no more than 1000 may be"
        );
        drop(more);
        scope.check().unwrap();
        drop(most);
    });
    let kept = scope.run(|| bytes(2_000));
    scope.check().unwrap_err();
    scope.set_limit(None);
    scope.check().unwrap();
    drop(kept);
}

#[test]
fn limit_of_nothing_is_one_and_the_largest_is_never_met() {
    let scope = MemoryScope::new();
    scope.set_limit(0);
    scope.check().unwrap();
    let kept = scope.run(|| bytes(1));
    scope.check().unwrap_err();
    scope.set_limit(u64::MAX);
    scope.check().unwrap();
    drop(kept);
}

#[test]
fn group_holds_what_scopes_of_all_threads_do_and_did_at_most() {
    const THREADS: usize = 6;
    const EACH: u64 = 300_000;
    let group = MemoryGroup::new();
    let barrier = Barrier::new(THREADS + 1);
    thread::scope(|threads| {
        for _ in 0..THREADS {
            threads.spawn(|| {
                let scope = group.scope();
                let kept = scope.run(|| bytes(EACH as usize));
                barrier.wait();
                barrier.wait();
                drop(scope);
                barrier.wait();
                barrier.wait();
                drop(kept);
            });
        }
        let all = THREADS as u64 * EACH;
        barrier.wait();
        let usage = group.usage();
        assert_eq!([usage.live, usage.peak, usage.allocated], [all; 3]);
        assert_eq!(retained(&group), [0, 0]);
        barrier.wait();
        barrier.wait();
        assert_eq!(retained(&group), [THREADS as u64, all]);
        barrier.wait();
    });
    assert_eq!(group.usage().live, 0);
    assert_eq!(group.usage().peak, THREADS as u64 * EACH);
    assert_eq!(retained(&group), [0, 0]);
}

#[test]
fn charge_is_live_until_it_is_dropped_wherever_that_is() {
    let group = MemoryGroup::new();
    let scope = group.scope();
    scope.set_limit(10_000);
    let held = scope.run(|| bytes(100));
    let charge = scope.charge(9_900);
    assert_eq!(charge.bytes(), 9_900);
    scope.check().unwrap();
    let more = scope.run(|| scope.charge(1));
    scope.check().unwrap_err();
    assert_eq!([live(&scope), group.usage().live], [10_001, 10_001]);
    assert_eq!(scope.usage().peak, 10_001);
    assert_eq!(scope.usage().allocated, 10_001);
    drop((more, held));
    drop(scope);
    assert_eq!(group.retained().bytes, 9_900);
    thread::spawn(move || drop(charge)).join().unwrap();
    assert_eq!(group.retained().bytes, 0);
    assert_eq!(group.usage().live, 0);
}

#[test]
fn charge_in_the_scope_comes_on_top_of_what_the_thread_has_not_told() {
    let scope = MemoryScope::new();
    scope.run(|| {
        let held = bytes(500);
        let charge = scope.charge(1_000);
        drop(held);
        drop(charge);
    });
    assert_eq!(scope.usage().peak, 1_500);
    assert_eq!(live(&scope), 0);
}

#[test]
fn charges_are_counted_up_to_64_tib() {
    const MOST: u64 = 64 << 40;
    let group = MemoryGroup::new();
    let scope = group.scope();
    let held = scope.run(|| bytes(10));
    let most = scope.charge(u64::MAX);
    assert_eq!(most.bytes(), MOST - 10);
    assert_eq!(live(&scope), MOST);
    let none = scope.charge(1);
    assert_eq!(none.bytes(), 0);
    // Its group has no room, either.
    let sister = group.scope();
    assert_eq!(sister.charge(5).bytes(), 0);
    let kept = scope.run(|| bytes(1_000));
    assert_eq!(live(&scope), MOST + 1_000);
    assert_eq!(scope.charge(u64::MAX).bytes(), 0);
    drop(most);
    assert_eq!(live(&scope), 1_010);
    assert_eq!(sister.charge(5).bytes(), 5);
    drop((held, kept, none));
    assert_eq!([live(&scope), group.usage().live], [0, 0]);
}

#[test]
fn charge_that_is_tried_is_within_the_limit_or_nothing() {
    let group = MemoryGroup::new();
    let scope = group.scope();
    scope.set_limit(1_000);
    let used = scope.run(|| bytes(900));
    let most = scope.try_charge(100).unwrap();
    assert_eq!(most.bytes(), 100);
    assert_eq!([live(&scope), group.usage().live], [1_000, 1_000]);
    let before = scope.usage();
    for (more, asked) in [
        (1, "1"),
        (1_000, "1000"),
        (u64::MAX, "18446744073709551615"),
    ] {
        assert_eq!(
            scope.try_charge(more).unwrap_err().to_string(),
            format!(
                "1000 bytes are held, {asked} more were asked for, and no more than 1000 may be"
            )
        );
    }
    assert_eq!(scope.usage(), before);
    assert_eq!(group.usage().live, 1_000);
    drop(most);
    scope.try_charge(101).unwrap_err();
    assert_eq!(live(&scope), 900);
    scope.set_limit(None);
    assert_eq!(scope.try_charge(1 << 40).unwrap().bytes(), 1 << 40);
    assert_eq!(scope.usage().peak, 900 + (1 << 40));
    assert_eq!(scope.usage().allocated, 1_000 + (1 << 40));
    scope.set_limit(899);
    scope.try_charge(0).unwrap_err();
    drop(used);
    assert_eq!([live(&scope), group.usage().live], [0, 0]);
}

#[test]
fn charge_that_is_tried_in_the_scope_comes_on_top_of_what_the_thread_has_not_told() {
    let scope = MemoryScope::new();
    scope.set_limit(1_000);
    scope.child().run(|| {
        let held = bytes(500);
        scope.try_charge(501).unwrap_err();
        let charge = scope.try_charge(500).unwrap();
        drop((held, charge));
    });
    assert_eq!(scope.usage().peak, 1_000);
    assert_eq!(live(&scope), 0);
}

#[test]
fn charge_that_is_tried_is_within_the_limits_further_out() {
    let (route, adapter) = (MemoryGroup::new(), MemoryGroup::new());
    let request = route.scope();
    let call = adapter.scope_within(&request);
    let inner = call.child();
    request.set_limit(1_000);
    call.set_limit(2_000);
    let held = request.run(|| bytes(400));
    let before = [&request, &call, &inner].map(MemoryScope::usage);
    let over = inner.try_charge(601).unwrap_err();
    assert_eq!(
        over.to_string(),
        "400 bytes are held, 601 more were asked for, and no more than 1000 may be"
    );
    assert_eq!([&request, &call, &inner].map(MemoryScope::usage), before);
    assert_eq!([route.usage().live, adapter.usage().live], [400, 0]);
    let charge = inner.try_charge(600).unwrap();
    assert_eq!([&request, &call, &inner].map(live), [1_000, 600, 600]);
    assert_eq!([route.usage().live, adapter.usage().live], [1_000, 600]);
    assert_eq!(call.usage().peak, 600);
    drop(charge);
    assert_eq!([&request, &call, &inner].map(live), [400, 0, 0]);
    drop(held);
}

#[test]
fn charges_that_are_tried_are_counted_up_to_64_tib() {
    const MOST: u64 = 64 << 40;
    let group = MemoryGroup::new();
    let (scope, sister) = (group.scope(), group.scope());
    let held = scope.run(|| bytes(10));
    scope.set_limit(u64::MAX);
    for bytes in [u64::MAX, MOST - 9] {
        scope.try_charge(bytes).unwrap_err();
    }
    let most = scope.try_charge(MOST - 10).unwrap();
    // Its group has no room, either.
    sister.try_charge(1).unwrap_err();
    assert_eq!(live(&sister), 0);
    drop((most, held));
    assert_eq!(group.usage().live, 0);
}

#[test]
fn charges_that_are_tried_by_several_threads_are_never_beyond_the_limit() {
    const ROUNDS: usize = if cfg!(miri) { 20 } else { 5_000 };
    let request = MemoryScope::new();
    request.set_limit(1_000);
    let let_in: usize = thread::scope(|threads| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                threads.spawn(|| {
                    let call = request.child();
                    let tries = (0..ROUNDS).map(|_| {
                        let charges = [400, 300].map(|bytes| call.try_charge(bytes));
                        assert!(live(&request) <= 1_000);
                        charges.iter().flatten().count()
                    });
                    tries.sum::<usize>()
                })
            })
            .collect();
        let threads = threads.into_iter();
        threads.map(|thread| thread.join().unwrap()).sum()
    });
    assert!(let_in > 0);
    assert!(request.usage().peak <= 1_000);
    assert_eq!(live(&request), 0);
}

// === Scopes within scopes ===

#[test]
fn scope_within_another_counts_for_both_and_for_their_groups() {
    let (route, adapter) = (MemoryGroup::new(), MemoryGroup::new());
    let request = route.scope();
    let kept = request.run(|| {
        let own = bytes(1_000);
        let call = adapter.scope_within(&request);
        let theirs = call.run(|| {
            drop(bytes(50));
            let theirs = bytes(300);
            // Exact for the thread that is in the inner one.
            assert_eq!([live(&request), live(&call)], [1_300, 300]);
            theirs
        });
        assert_eq!([live(&request), live(&call)], [1_300, 300]);
        (own, theirs)
    });
    assert_eq!([route.usage().live, adapter.usage().live], [1_300, 300]);
    assert_eq!(request.usage().allocated, 1_350);
    assert_eq!(
        [route.usage().allocated, adapter.usage().allocated],
        [1_350, 350]
    );
    drop(kept.1);
    assert_eq!([route.usage().live, adapter.usage().live], [1_000, 0]);
    drop(kept.0);
    assert_eq!(live(&request), 0);
}

#[test]
fn block_of_an_inner_scope_can_be_freed_by_another_thread_and_grow_there() {
    let (route, adapter) = (MemoryGroup::new(), MemoryGroup::new());
    let request = route.scope();
    let call = adapter.scope_within(&request);
    let mut block = call.run(|| bytes(100));
    let block = thread::spawn(move || {
        block.reserve_exact(90_000);
        block
    });
    let block = block.join().unwrap();
    assert_eq!([live(&request), live(&call)], [90_000, 90_000]);
    assert_eq!([route.usage().live, adapter.usage().live], [90_000, 90_000]);
    drop((request, call));
    thread::spawn(move || drop(block)).join().unwrap();
    assert_eq!([route.usage().live, adapter.usage().live], [0, 0]);
    assert_eq!([retained(&route), retained(&adapter)], [[0, 0], [0, 0]]);
}

#[test]
fn request_ends_though_something_of_a_call_is_retained() {
    let (route, adapter) = (MemoryGroup::new(), MemoryGroup::new());
    let request = route.scope();
    let own = request.run(|| bytes(1_000));
    let call = adapter.scope_within(&request);
    let theirs = call.run(|| bytes(300));
    drop(call);
    // The call is over, the request is not.
    assert_eq!([retained(&route), retained(&adapter)], [[0, 0], [1, 300]]);
    drop(request);
    assert_eq!(
        [retained(&route), retained(&adapter)],
        [[1, 1_300], [1, 300]]
    );
    drop(own);
    assert_eq!([retained(&route), retained(&adapter)], [[1, 300], [1, 300]]);
    thread::spawn(move || drop(theirs)).join().unwrap();
    assert_eq!([retained(&route), retained(&adapter)], [[0, 0], [0, 0]]);
    assert_eq!([route.usage().live, adapter.usage().live], [0, 0]);
}

#[test]
fn scope_is_open_as_long_as_one_within_it_is() {
    let (route, adapter) = (MemoryGroup::new(), MemoryGroup::new());
    let request = route.scope();
    let own = request.run(|| bytes(1_000));
    let call = adapter.scope_within(&request);
    let inner = call.child();
    drop((request, call));
    assert_eq!([retained(&route), retained(&adapter)], [[0, 0], [0, 0]]);
    let theirs = inner.run(|| bytes(7));
    assert_eq!([route.usage().live, adapter.usage().live], [1_007, 7]);
    thread::spawn(move || drop(inner)).join().unwrap();
    assert_eq!([retained(&route), retained(&adapter)], [[1, 1_007], [1, 7]]);
    drop((own, theirs));
    assert_eq!([retained(&route), retained(&adapter)], [[0, 0], [0, 0]]);
}

#[test]
fn scopes_within_scopes_are_counted_to_the_byte_64_deep() {
    const DEEP: usize = 64;
    let (route, adapter) = (MemoryGroup::new(), MemoryGroup::new());
    let mut scopes = vec![route.scope()];
    for n in 1..DEEP {
        let outer = &scopes[n - 1];
        // In a group of its own, in none, and in one that counts it already.
        scopes.push(match n {
            1 => adapter.scope_within(outer),
            n if n % 2 == 0 => outer.child(),
            _ => adapter.scope_within(outer),
        });
    }
    fn nest(scopes: &[MemoryScope], kept: &mut Vec<Vec<u8>>) {
        let Some((scope, inner)) = scopes.split_first() else {
            return;
        };
        let _entered = scope.enter();
        kept.push(bytes(100));
        nest(inner, kept);
        kept.push(bytes(1));
    }
    let mut kept = Vec::with_capacity(2 * DEEP);
    nest(&scopes, &mut kept);
    for (n, scope) in scopes.iter().enumerate() {
        let within = (DEEP - n) as u64;
        assert_eq!([live(scope), scope.usage().peak], [101 * within; 2]);
    }
    assert_eq!(
        [route.usage().live, adapter.usage().live],
        [101 * 64, 101 * 63]
    );
    // The innermost one keeps them all, until it is dropped elsewhere.
    let innermost = scopes.pop().unwrap();
    drop(scopes);
    assert_eq!(retained(&route), [0, 0]);
    thread::spawn(move || drop(innermost)).join().unwrap();
    assert_eq!(retained(&route), [1, 101 * 64]);
    assert_eq!(retained(&adapter), [1, 101 * 63]);
    thread::spawn(move || drop(kept)).join().unwrap();
    assert_eq!([retained(&route), retained(&adapter)], [[0, 0], [0, 0]]);
    assert_eq!([route.usage().live, adapter.usage().live], [0, 0]);
}

#[test]
fn peak_of_a_scope_has_what_those_within_it_held() {
    let (route, adapter) = (MemoryGroup::new(), MemoryGroup::new());
    let request = route.scope();
    request.run(|| {
        // Not told before the inner one is entered, unless by that.
        let own = bytes(10_000);
        let call = adapter.scope_within(&request);
        call.run(|| {
            drop(bytes(40_000));
            drop(bytes(30_000));
        });
        assert_eq!([request.usage().peak, call.usage().peak], [50_000, 40_000]);
        drop(own);
        drop(bytes(45_000));
    });
    assert_eq!(request.usage().peak, 50_000);
    assert_eq!([route.usage().peak, adapter.usage().peak], [50_000, 40_000]);
}

#[test]
fn limit_of_a_scope_is_of_what_those_within_it_hold_too() {
    let request = MemoryScope::new();
    request.set_limit(1_000);
    let call = request.child();
    let own = request.run(|| bytes(400));
    call.run(|| {
        let most = bytes(600);
        request.check().unwrap();
        let more = bytes(1);
        request.check().unwrap_err();
        // Who works in the call can do something about it.
        call.check().unwrap_err();
        call.set_limit(500);
        let error = call.check().unwrap_err();
        assert!(error.to_string().contains("500"), "the innermost: {error}");
        call.set_limit(None);
        drop((most, more));
        request.check().unwrap();
    });
    drop(own);
}

#[test]
fn scopes_of_several_calls_of_a_request_do_not_mix() {
    let route = MemoryGroup::new();
    let adapters = [(); 3].map(|()| MemoryGroup::new());
    let request = route.scope();
    let calls: Vec<_> = adapters
        .iter()
        .map(|group| group.scope_within(&request))
        .collect();
    let kept: Vec<_> = thread::scope(|threads| {
        let threads: Vec<_> = calls
            .iter()
            .zip([100, 20_000, 300_000])
            .map(|(call, len)| {
                threads.spawn(move || {
                    (0..100).for_each(|_| call.run(|| drop(bytes(len))));
                    call.run(|| bytes(len))
                })
            })
            .collect();
        let threads = threads.into_iter();
        threads.map(|thread| thread.join().unwrap()).collect()
    });
    let each: Vec<_> = adapters.iter().map(|group| group.usage().live).collect();
    assert_eq!(each, [100, 20_000, 300_000]);
    assert_eq!([live(&request), route.usage().live], [320_100; 2]);
    assert_eq!(request.usage().allocated, 101 * 320_100);
    drop((calls, request));
    assert_eq!(retained(&route), [1, 320_100]);
    assert_eq!(retained(&adapters[1]), [1, 20_000]);
    drop(kept);
    assert_eq!(retained(&route), [0, 0]);
}

#[test]
fn group_counts_once_what_comes_to_it_from_within() {
    let (route, adapter) = (MemoryGroup::new(), MemoryGroup::new());
    let request = route.scope();
    let call = adapter.scope_within(&request);
    // A call that calls itself, with another one in between, and a request that makes one.
    let again = adapter.scope_within(&call.child());
    let request_again = route.scope_within(&again);
    let kept = request_again.run(|| bytes(1_000));
    assert_eq!([route.usage().live, adapter.usage().live], [1_000, 1_000]);
    drop(request_again);
    // That is retained by the outer one, once it has ended.
    assert_eq!([retained(&route), retained(&adapter)], [[0, 0], [0, 0]]);
    drop((again, call));
    assert_eq!([retained(&route), retained(&adapter)], [[0, 0], [1, 1_000]]);
    drop(request);
    assert_eq!(
        [retained(&route), retained(&adapter)],
        [[1, 1_000], [1, 1_000]]
    );
    drop(kept);
    assert_eq!([route.usage().live, adapter.usage().live], [0, 0]);
}

#[test]
fn groups_of_an_inner_scope_may_be_gone_before_it() {
    let request = MemoryGroup::new().scope();
    let call = MemoryGroup::new().scope_within(&request);
    // One of them would have the place of a group, had that left it.
    let groups: Vec<_> = (0..200).map(|_| MemoryGroup::new()).collect();
    let kept = call.run(|| bytes(100_000));
    drop((request, call));
    assert!(groups.iter().all(|group| group.usage().allocated == 0));
    drop(kept);
    assert!(groups.iter().all(|group| group.usage().live == 0));
}

// === Groups ===

#[test]
fn group_holds_what_its_scopes_do_and_knows_what_they_retain() {
    let group = MemoryGroup::new();
    let other = MemoryGroup::new();
    let [one, two] = [(); 2].map(|()| group.scope());
    let [in_one, in_two] = [one.run(|| bytes(1_000)), two.run(|| bytes(50))];
    let elsewhere = other.scope().run(|| bytes(3));
    assert_eq!(group.usage().live, 1_050);
    assert_eq!(group.retained().scopes, 0);
    drop(one);
    assert_eq!(
        [group.retained().scopes, group.retained().bytes],
        [1, 1_000]
    );
    drop(two);
    assert_eq!(
        [group.retained().scopes, group.retained().bytes],
        [2, 1_050]
    );
    assert_eq!([other.retained().scopes, other.retained().bytes], [1, 3]);
    drop(in_one);
    assert_eq!([group.retained().scopes, group.retained().bytes], [1, 50]);
    assert_eq!(group.usage().live, 50);
    drop((in_two, elsewhere));
    assert_eq!(group.usage().live, 0);
    assert_eq!([group.retained().scopes, other.retained().scopes], [0, 0]);
    assert_eq!(group.usage().allocated, 1_050);
    assert_eq!(group.usage().peak, 1_050);
}

#[test]
fn cache_retains_a_value_until_it_is_evicted() {
    let route = MemoryGroup::new();
    let cache = RefCell::new(Vec::with_capacity(10));
    for n in 0..10 {
        let request = route.scope();
        request.run(|| {
            drop(bytes(50_000));
            cache.borrow_mut().push(bytes(1_000 + n));
        });
    }
    assert_eq!(route.retained().bytes, 10_045);
    assert_eq!(route.retained().scopes, 10);
    cache.borrow_mut().clear();
    assert_eq!(route.retained().bytes, 0);
}

#[test]
fn scope_of_a_group_that_is_gone_counts_for_nobody_else() {
    let orphan = MemoryGroup::new().scope();
    // One of them would have the place of the group, had it left it.
    let groups: Vec<_> = (0..200).map(|_| MemoryGroup::new()).collect();
    let kept = orphan.run(|| bytes(100_000));
    assert!(groups.iter().all(|group| group.usage().live == 0));
    assert!(groups.iter().all(|group| group.usage().allocated == 0));
    drop(kept);
    assert_eq!(live(&orphan), 0);
}

#[test]
fn scope_ends_with_its_last_handle() {
    let group = MemoryGroup::new();
    let scope = group.scope();
    let handles = [(); 3].map(|()| scope.clone());
    let kept = scope.run(|| bytes(10));
    drop(scope);
    assert_eq!(group.retained().scopes, 0);
    let current = handles[0].run(|| MemoryScope::current().unwrap());
    drop(handles);
    assert_eq!(group.retained().scopes, 0);
    drop(current);
    assert_eq!(group.retained().scopes, 1);
    drop(kept);
}

#[test]
fn handles_to_a_group_have_one_id_and_other_groups_have_others() {
    let (one, two) = (MemoryGroup::new(), MemoryGroup::new());
    let id = one.id().unwrap();
    assert_eq!(one.clone().id(), Some(id));
    assert_ne!(two.id(), Some(id));
    drop(one);
    // Nor has the next one in the same place.
    let later: Vec<_> = (0..200).map(|_| MemoryGroup::new()).collect();
    assert!(later.iter().all(|group| group.id() != Some(id)));
}

#[test]
fn what_all_groups_retain_is_told_at_once() {
    let (route, adapter) = (MemoryGroup::new(), MemoryGroup::new());
    let idle = MemoryGroup::new();
    let open = route.scope();
    let mut kept = vec![open.run(|| bytes(5)), MemoryScope::new().run(|| bytes(6))];
    for len in [1_000, 20_000] {
        let request = route.scope();
        let call = adapter.scope_within(&request);
        kept.push(request.run(|| bytes(len)));
        kept.push(call.run(|| bytes(len + 1)));
        // Told to nobody: it is of the request.
        kept.push(request.child().run(|| bytes(len + 2)));
    }
    let told = || {
        let ids = [&route, &adapter, &idle].map(|group| group.id().unwrap());
        let mut told = ids.map(|_| Vec::new());
        each_retained(|group, _, bytes| {
            if let Some(n) = ids.iter().position(|id| *id == group) {
                told[n].push(bytes);
            }
        });
        told.map(|mut told| {
            told.sort_unstable();
            told
        })
    };
    assert_eq!(
        told(),
        [vec![3_003, 60_003], vec![1_001, 20_001], Vec::new()]
    );
    drop(kept);
    assert_eq!(told(), [Vec::new(), Vec::new(), Vec::new()]);
}

#[test]
fn what_things_say_of_themselves_has_their_numbers() {
    let scope = MemoryScope::new();
    let kept = scope.run(|| bytes(123));
    assert!(format!("{scope:?}").contains("live: 123"), "{scope:?}");
    assert!(format!("{:?}", scope.charge(77)).contains("77"));
    assert!(!format!("{:?}", MemoryGroup::new()).is_empty());
    drop(kept);
}
