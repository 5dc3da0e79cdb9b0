//! Scopes under Tokio: tasks that move between threads, are aborted, panic, or go on elsewhere.
#![cfg(not(any(plimsoll_loom, miri)))]
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use plimsoll_alloc::{MemoryGroup, MemoryScope, TrackingAllocator};
use std::{hint::black_box, panic::resume_unwind};
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
    task::{self, LocalSet, spawn_blocking, yield_now},
};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

const KIB: u64 = 1_024;

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(4)
        // Where a thread is slow to start, each task would have one made: valgrind ends at 500.
        .max_blocking_threads(8)
        .build()
        .unwrap()
}

/// So many bytes on the heap, in one block.
fn bytes(len: usize) -> Vec<u8> {
    black_box(Vec::with_capacity(black_box(len)))
}

#[test]
fn tasks_that_move_between_threads_keep_their_scope() {
    const TASKS: usize = 400;
    let runtime = runtime();
    let group = MemoryGroup::new();
    let tasks = |blocking: bool| {
        let tasks: Vec<_> = (0..TASKS)
            .map(|n| {
                let work = async move {
                    let mut kept = Vec::with_capacity(20);
                    for round in 0..20 {
                        kept.push(bytes(100 + n + round));
                        yield_now().await;
                    }
                    let rest = kept.split_off(10);
                    if blocking {
                        spawn_blocking(move || drop(kept)).await.unwrap();
                    } else {
                        drop(kept);
                    }
                    rest
                };
                runtime.spawn(group.scope().scoped(work))
            })
            .collect();
        runtime.block_on(async {
            let mut all = Vec::with_capacity(TASKS);
            for task in tasks {
                all.push(task.await.unwrap());
            }
            all
        })
    };
    // Threads, and what they keep for themselves, are made now, and belong to whoever came first.
    let warm = tasks(true);
    drop(warm);
    let infrastructure = group.retained().bytes;
    let kept = tasks(true);
    let payload: usize = kept
        .iter()
        .flat_map(|rest| rest.iter().map(Vec::capacity).chain([20 / 2 * 24]))
        .sum();
    let retained = group.retained().bytes - infrastructure;
    // Exact, but for threads for blocking work that were not needed before.
    assert!(
        retained.abs_diff(payload as u64) <= 64 * KIB,
        "{retained} for {payload}"
    );
    drop(kept);
}

#[test]
fn aborted_task_frees_what_it_held_in_its_scope() {
    let runtime = runtime();
    let scope = MemoryScope::new();
    let (holds, held) = oneshot::channel();
    let task = runtime.spawn(scope.clone().scoped(async move {
        let _held = bytes(100_000);
        let _ = holds.send(());
        std::future::pending::<()>().await;
    }));
    runtime.block_on(async {
        held.await.unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    });
    drop(runtime);
    assert_eq!(scope.usage().live, 0);
    assert!(scope.usage().peak >= 100_000);
}

#[test]
fn task_that_panics_leaves_its_worker_in_no_scope() {
    let runtime = Builder::new_current_thread().build().unwrap();
    let scope = MemoryScope::new();
    let panics = scope.clone().scoped(async {
        let _held = bytes(1_000);
        resume_unwind(Box::new(()));
    });
    runtime.block_on(async {
        task::spawn(panics).await.unwrap_err();
        let after = task::spawn(async { MemoryScope::current().is_none() });
        assert!(after.await.unwrap());
    });
    drop(runtime);
    assert_eq!(scope.usage().live, 0);
}

#[test]
fn work_elsewhere_is_of_the_scope_if_it_takes_it_along() {
    let runtime = runtime();
    let scope = MemoryScope::new();
    let work = scope.clone().scoped(async {
        let escapes = task::spawn(async { bytes(50_000) });
        let mine = MemoryScope::current().unwrap();
        let stays = task::spawn(mine.clone().scoped(async { bytes(7_000_000) }));
        let blocks = spawn_blocking(move || mine.run(|| bytes(5_000_000)));
        let inside = task::block_in_place(|| bytes(300_000));
        assert!(MemoryScope::current().is_some());
        (
            escapes.await.unwrap(),
            stays.await.unwrap(),
            blocks.await.unwrap(),
            inside,
        )
    });
    let kept = runtime.block_on(async { task::spawn(work).await.unwrap() });
    drop(runtime);
    let live = scope.usage().live;
    // The threads for blocking work that it had made are its own.
    assert!((12_300_000..12_345_000).contains(&live), "{live}");
    drop(kept);
}

#[test]
fn local_tasks_keep_their_scope() {
    let runtime = Builder::new_current_thread().build().unwrap();
    let scopes: Vec<_> = (0..10).map(|_| MemoryScope::new()).collect();
    let local = LocalSet::new();
    let tasks: Vec<_> = scopes
        .iter()
        .enumerate()
        .map(|(n, scope)| {
            local.spawn_local(scope.clone().scoped(async move {
                let kept = bytes(1_000 + n);
                yield_now().await;
                drop(bytes(5_000));
                yield_now().await;
                kept
            }))
        })
        .collect();
    runtime.block_on(local);
    for (n, (scope, task)) in scopes.iter().zip(tasks).enumerate() {
        let kept = runtime.block_on(task).unwrap();
        assert_eq!(scope.usage().live, 1_000 + n as u64);
        // One of them has the runtime make room for those that wait.
        let peak = scope.usage().peak;
        assert!((6_000..6_000 + KIB).contains(&(peak - n as u64)), "{peak}");
        drop(kept);
    }
}
