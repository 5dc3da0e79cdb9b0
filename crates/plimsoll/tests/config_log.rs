//! What the log tells of a configuration. Apart, because it listens to every thread.
#![cfg(all(feature = "config", feature = "http"))]
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use plimsoll::{
    Adapter, AdapterSpec, BoxError, Config, ConfigFiles, LifecycleConfig, MemoryConfig,
    MonitorConfig, Plimsoll, config_files::watch::Watcher,
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Once},
    time::Duration,
};
use tokio::{net::TcpListener, sync::MutexGuard, time::timeout};

const TOKEN: &str = "0123456789-which-nobody-may-see-0123456789";

/// Where others have taken the memory of the machine, the log tells of that besides.
const REFUSED: &str = "ERROR plimsoll::config::live: configuration refused";

/// What is logged by all threads.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

static LOG: Mutex<Option<Log>> = Mutex::new(None);
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

impl Log {
    /// An empty log, for one test at a time.
    async fn start() -> (Self, MutexGuard<'static, ()>) {
        static ONCE: Once = Once::new();
        let turn = TURN.lock().await;
        ONCE.call_once(|| {
            tracing_subscriber::fmt()
                .with_max_level(tracing::Level::TRACE)
                .with_ansi(false)
                .without_time()
                .with_writer(|| LOG.lock().unwrap().clone().unwrap_or_default())
                .init();
        });
        let log = Self::default();
        *LOG.lock().unwrap() = Some(log.clone());
        (log, turn)
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    fn count(&self, what: &str) -> usize {
        self.text().matches(what).count()
    }

    /// Waits on the real clock, since nobody tells.
    async fn until(&self, what: &str, count: usize) {
        let there = async {
            while self.count(what) < count {
                tokio::task::yield_now().await;
            }
        };
        let there = timeout(Duration::from_secs(60), there).await;
        assert!(there.is_ok(), "{what} {count} times in\n{}", self.text());
    }

    fn assert_line(&self, parts: &[&str]) {
        let text = self.text();
        let has_all = |line: &str| parts.iter().all(|part| line.contains(part));
        assert!(text.lines().any(has_all), "{parts:?} in\n{text}");
    }
}

impl io::Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn code() -> Config {
    let lifecycle = LifecycleConfig::default().drain_delay(Duration::ZERO);
    let code = Config::new().lifecycle(lifecycle);
    #[cfg(feature = "admin")]
    let code = code.control(plimsoll::ControlConfig::new().no_probe().no_admin());
    code
}

fn make(spec: &AdapterSpec) -> Result<Adapter<u8, u8>, BoxError> {
    Ok(spec
        .builder()
        .function(|n: u8| async move { Ok::<_, BoxError>(n) })?)
}

#[tokio::test]
async fn adapters_that_nobody_made_are_warned_of_when_the_service_serves() {
    let (log, _turn) = Log::start().await;
    let folder = folder("log-strangers");
    let list = "adapters:\n- name: mine\n- name: nobodys\n";
    fs::write(folder.join("adapters.yaml"), list).unwrap();
    let variables = [
        ("APP__ADAPTERS__MINE__FAULT_TOLERANCE__TIMEOUT", "3s"),
        ("APP__ADAPTERS__STRANGE__FAULT_TOLERANCE__TIMEOUT", "3s"),
    ];
    let files = ConfigFiles::in_folder(&folder).no_watch();
    let loaded = files.variables("APP", variables).load(code()).unwrap();
    let plimsoll = Plimsoll::start(loaded.config()).unwrap();
    let mine = Adapter::builder("mine").function(|n: u8| async move { Ok::<_, BoxError>(n) });
    let _mine = plimsoll.register_adapter(mine.unwrap()).unwrap();
    assert_eq!(log.count("problems"), 0);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    plimsoll.request_stop();
    let app = axum::Router::new().with_state(());
    plimsoll.serve(listener, app).await.unwrap();
    log.assert_line(&["WARN", "2 problems"]);
    log.assert_line(&["adapters.yaml:3:9: `adapters.nobodys` is no adapter of this program"]);
    log.assert_line(&["APP__ADAPTERS__STRANGE", "`adapters.strange` is not known"]);
    assert_eq!(log.count("MINE"), 0);
}

#[tokio::test]
async fn each_change_is_logged_with_its_values_but_those_that_are_secret() {
    let (log, _turn) = Log::start().await;
    let folder = folder("log-changes");
    let write = |text: &str| fs::write(folder.join("config.yaml"), text).unwrap();
    write(&format!("control:\n  token: {TOKEN}\n"));
    let files = ConfigFiles::in_folder(&folder).no_watch();
    let variables = [("APP__CONTROL__TOKEN", format!("{TOKEN}-of-a-variable"))];
    let loaded = files
        .variables("APP", variables)
        .load_with::<()>(code())
        .unwrap();
    let plimsoll = Plimsoll::start(loaded.config()).unwrap();
    let _adapters = plimsoll.adapters(&loaded, make).unwrap();
    write(&format!(
        "control:\n  token: {TOKEN}-another\nlifecycle: {{max_tasks: 77}}\n\
         fault_tolerance:\n  timeout: 5s\n"
    ));
    plimsoll.reload().await.unwrap();
    log.assert_line(&[
        "INFO",
        "setting changed",
        "fault_tolerance.timeout",
        "old=2s",
        "new=5s",
        "config.yaml:5:12",
    ]);
    log.assert_line(&[
        "WARN",
        "setting changes after a restart",
        "lifecycle.max_tasks",
        "new=77",
    ]);
    log.assert_line(&["INFO", "configuration read", "changes=2"]);
    write(&format!(
        "control: {{token: {TOKEN} with blanks}}\nserver: 5\n"
    ));
    plimsoll.reload().await.unwrap_err();
    log.assert_line(&["ERROR", "configuration refused, nothing was changed"]);
    assert_eq!(log.count(TOKEN), 0, "{}", log.text());
}

#[tokio::test]
async fn text_that_cannot_be_used_is_told_once_until_it_is_another() {
    let (log, _turn) = Log::start().await;
    let folder = folder("log-bad");
    let file = folder.join("adapters.yaml");
    // At once, since one that is read half written is another one.
    let write = |text: &str| {
        let new = folder.join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, &file).unwrap();
    };
    let good = "adapters:\n- name: a\n";
    write(good);
    let files = ConfigFiles::in_folder(&folder).no_variables();
    let loaded = files.load_with::<()>(code()).unwrap();
    let plimsoll = Plimsoll::start(loaded.config()).unwrap();
    let adapters = plimsoll.adapters(&loaded, make).unwrap();
    let mut watcher = Watcher::new([&*file]);
    let mut told = 0;
    let mut read = 0;
    // One that can be read and not be used, and one that is no YAML.
    for bad in ["adapters: 5\n", "adapters: [\n"] {
        told += 1;
        write(bad);
        log.until(REFUSED, told).await;
        watcher.changed().await;
        for _ in 0..2 {
            // The same again. Whoever watches looks when this one does.
            write(bad);
            watcher.changed().await;
        }
        told += 1;
        read += 1;
        write("adapters: 6\n");
        log.until("`adapters` is 6,", read).await;
        assert_eq!(log.count(REFUSED), told, "{}", log.text());
        // Mended to what counts anyway.
        write(good);
        log.until("configuration read", 2 * read - 1).await;
        told += 1;
        write(bad);
        log.until(REFUSED, told).await;
        // One who asks is answered, and the log tells again.
        told += 1;
        plimsoll.reload().await.unwrap_err();
        assert_eq!(log.count(REFUSED), told, "{}", log.text());
        write(good);
        log.until("configuration read", 2 * read).await;
        assert_eq!(log.count(REFUSED), told, "{}", log.text());
    }
    assert_eq!(adapters.len(), 1);
    assert_eq!(log.count("changes=0"), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn how_things_are_is_logged_in_one_sentence() {
    let (log, _turn) = Log::start().await;
    let monitor = MonitorConfig::new()
        .limit(8 << 30)
        .log_every(Duration::from_secs(1));
    let config = code().memory(MemoryConfig::new().monitor(monitor));
    let _plimsoll = Plimsoll::start(config).unwrap();
    log.until("state=", 1).await;
    let parts = [
        "INFO",
        // At ease, unless others have taken the memory of the machine.
        "memory state=\"",
        ": memory ",
        "level=",
        "resident=",
    ];
    log.assert_line(&parts);
}
