//! What reloads leave in memory: nothing.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use libtest_mimic::{Arguments, Failed, Trial};
use plimsoll::{
    Adapter, AdapterSpec, BoxError, Config, ConfigFiles, MemoryConfig, MonitorConfig, Plimsoll,
    settings::{Fields, Settings, text},
};
use plimsoll_core::test_util::{CountingAllocator, alive_tasks, assert_live_bytes_return};
use std::{fs, path::Path, process::ExitCode, time::Duration};
use tokio::{runtime, task::yield_now, time::timeout};

#[global_allocator]
static ALLOC: CountingAllocator = CountingAllocator::system();

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The allocator counts for the whole process, so nothing may run beside a test.
    arguments.test_threads = Some(1);
    let trials = vec![
        trial("two_thousand_reloads_leave_nothing", reloads),
        trial("reloads_that_are_refused_leave_nothing", refused),
        trial("services_that_came_and_went_leave_nothing", services),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial<F>(name: &str, test: fn() -> F) -> Trial
where
    F: Future<Output = ()> + 'static,
{
    Trial::test(name, move || {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Failed::from)?;
        runtime.block_on(test());
        Ok(())
    })
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Kind {
    greeting: String,
}

impl Settings for Kind {
    fn visit(&mut self, fields: &mut dyn Fields) {
        let about = "What it says.";
        fields.setting("greeting", about, &mut text(&mut self.greeting));
    }
}

fn make(spec: &AdapterSpec<Kind>) -> Result<Adapter<u8, String>, BoxError> {
    let greeting = spec.settings.greeting.clone();
    if greeting == "nothing" {
        return Err("it has nothing to say".into());
    }
    let greet = move |_: u8| {
        let greeting = greeting.clone();
        async move { Ok::<_, BoxError>(greeting) }
    };
    Ok(spec.builder().function(greet)?)
}

/// Two lists between which one adapter stays, one has other limits, one takes the place of
/// another, and one comes and goes; and one that is refused.
const LISTS: [&str; 3] = [
    "adapters:\n- name: stays\n- name: limits\n- name: other\n  greeting: hello\n",
    "adapters:\n- name: goes\n- name: limits\n  fault_tolerance: {timeout: 5s}\n\
     - name: other\n  greeting: good day\n- name: stays\n",
    "adapters:\n- name: new\n- name: other\n  greeting: good evening\n\
     - name: bad\n  greeting: nothing\n- name: worse\n  greting: x\n",
];

/// A service in a folder, and a way to have it read one of the lists.
fn start(
    name: &str,
) -> (
    Plimsoll,
    plimsoll::Adapters<u8, String>,
    impl Fn(usize) + use<>,
) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("adapters.yaml");
    let write = move |list: usize| fs::write(&file, LISTS[list]).unwrap();
    write(0);
    let files = ConfigFiles::in_folder(&folder).no_variables().no_watch();
    // Others should not allocate while it counts, and the monitor does when it looks.
    let monitor = MonitorConfig::new().interval(Duration::from_secs(60));
    let code = Config::new().memory(MemoryConfig::new().monitor(monitor));
    #[cfg(feature = "admin")]
    let code = code.no_control();
    let loaded = files.load_with::<Kind>(code).unwrap();
    let plimsoll = Plimsoll::start(loaded.config()).unwrap();
    let adapters = plimsoll.adapters(&loaded, make).unwrap();
    (plimsoll, adapters, write)
}

async fn reloads() {
    let (plimsoll, adapters, write) = start("memory-reloads");
    let work = || async {
        for (list, adapters_there) in [(1, 4), (0, 3)] {
            write(list);
            let reload = plimsoll.reload().await.unwrap();
            assert_eq!((reload.changes.len(), adapters.len()), (3, adapters_there));
            adapters.call("other", 0).await.unwrap();
        }
    };
    assert_live_bytes_return(&ALLOC, 100, 1_000, 4_096, work).await;
}

async fn refused() {
    let (plimsoll, adapters, write) = start("memory-refused");
    write(2);
    let work = || async {
        let error = plimsoll.reload().await.unwrap_err();
        assert_eq!((error.count(), adapters.len()), (2, 3));
    };
    assert_live_bytes_return(&ALLOC, 100, 500, 4_096, work).await;
}

async fn services() {
    let work = || async {
        let tasks = alive_tasks();
        let (plimsoll, adapters, write) = start("memory-services");
        adapters.call("other", 0).await.unwrap();
        write(1);
        plimsoll.reload().await.unwrap();
        drop((plimsoll, adapters));
        tasks_return_to(tasks).await;
    };
    // Two threads may still be ending, with what the standard library has for each.
    assert_live_bytes_return(&ALLOC, 50, 200, 16_384, work).await;
}

/// Waits for the tasks of a service. The sweeper is the last: it ends when the monitor's threads have
/// let go of the registry, which is the last that they do.
async fn tasks_return_to(start: usize) {
    let gone = async {
        while alive_tasks() > start {
            yield_now().await;
        }
    };
    let in_time = timeout(Duration::from_secs(60), gone).await;
    assert!(in_time.is_ok(), "a task does not end");
}
