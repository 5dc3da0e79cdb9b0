//! What scopes say they hold, with the allocator installed. These run side by side: each looks at
//! its own scopes.
#![cfg(not(plimsoll_loom))]
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use plimsoll_alloc::{
    Entered, MemoryGroup, MemoryScope, MemoryUsage, Scoped, TrackingAllocator, untracked,
};
use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    hint::black_box,
    mem,
    panic::{self, AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::{Pin, pin},
    sync::{
        Once,
        atomic::{
            AtomicBool, AtomicU32,
            Ordering::{Relaxed, SeqCst},
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
                told.store(true, Relaxed);
                while !go_on.load(Relaxed) {
                    thread::yield_now();
                }
                drop(kept);
            });
        });
        while !told.load(Relaxed) {
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
fn what_things_say_of_themselves_has_their_numbers() {
    let scope = MemoryScope::new();
    let kept = scope.run(|| bytes(123));
    assert!(format!("{scope:?}").contains("live: 123"), "{scope:?}");
    assert!(format!("{:?}", scope.charge(77)).contains("77"));
    assert!(!format!("{:?}", MemoryGroup::new()).is_empty());
    drop(kept);
}
