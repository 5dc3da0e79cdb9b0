//! Two gateways behind nginx are restarted one after the other under load, and no request fails.
//!
//! nginx takes its upstreams from a controller that polls `/readyz`, the way an orchestrator does,
//! and is told never to retry: each request that a gateway would drop is a request that fails.

use libtest_mimic::{Arguments, Failed, Trial};
use std::{
    fmt, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};
use tokio::time::Instant;

const CLIENTS: usize = 4;
const POLL: Duration = Duration::from_millis(50);
/// Longer than the controller takes to notice and nginx to follow: on a machine on which one is not, the
/// next is tried.
const DRAIN_DELAYS: [Duration; 3] = [
    Duration::from_millis(1_500),
    Duration::from_secs(6),
    Duration::from_secs(20),
];

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() {
    let args = Arguments::from_args();
    let nginx = find_nginx();
    if nginx.is_none() {
        eprintln!("nginx is not installed, so the rolling restart is ignored");
    }
    let missing = nginx.is_none();
    let trial = Trial::test(
        "a_rolling_restart_behind_nginx_fails_no_request",
        move || {
            let nginx = nginx.as_deref().ok_or("nginx is not installed")?;
            for drain_delay in DRAIN_DELAYS {
                match rolling_restart(nginx, drain_delay) {
                    Err(error) if error.is::<TooSlow>() => eprintln!("{error}"),
                    ended => return ended.map_err(|error| Failed::from(error.to_string())),
                }
            }
            Err(Failed::from("the machine is too slow for any drain delay"))
        },
    );
    libtest_mimic::run(&args, vec![trial.with_ignored_flag(missing)]).exit();
}

/// The controller and nginx have taken longer than a gateway waits for them.
#[derive(Debug)]
struct TooSlow(Duration);

impl fmt::Display for TooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nginx does not follow within {:?}", self.0)
    }
}

impl std::error::Error for TooSlow {}

fn rolling_restart(nginx: &Path, drain_delay: Duration) -> Result<()> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rolling-restart");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("README.md"), "The service stops in phases.")?;

    let start = || Gateway::start(&folder, drain_delay);
    let mut gateways = vec![start()?, start()?];
    let proxy = Nginx::start(nginx, &folder, &gateways)?;

    let load = Load::start(proxy.addr);
    load.wait_for(200)?;
    for turn in 0..gateways.len() {
        // The replacement comes up first, as with a surge of one.
        let replacement = start()?;
        let leaving = std::mem::replace(&mut gateways[turn], replacement);
        let told = Instant::now();
        leaving.terminate()?;
        // The controller: whoever is not ready is not an upstream.
        let until = load.requests();
        proxy.follow(&gateways)?;
        // With some to spare for a request that was on its way to it.
        if Instant::now().saturating_duration_since(told) > drain_delay * 3 / 4 {
            return Err(TooSlow(drain_delay).into());
        }
        load.wait_for(until + 200)?;
        let report = leaving.ended()?;
        if !report.contains("0 cut off") {
            return Err(format!("requests were cut off:\n{report}").into());
        }
    }
    let (requests, failures) = load.stop();
    if let Some(first) = failures.first() {
        let count = failures.len();
        return Err(format!("{count} of {requests} requests failed, the first: {first}").into());
    }
    println!("{requests} requests, none failed");
    Ok(())
}

// === A gateway ===

struct Gateway {
    process: Child,
    listen: SocketAddr,
    admin: SocketAddr,
    output: BufReader<std::process::ChildStdout>,
}

impl Gateway {
    fn start(folder: &Path, drain_delay: Duration) -> Result<Self> {
        let mut process = Command::new(env!("CARGO_BIN_EXE_adapter-gateway"))
            .args(["--listen=127.0.0.1:0", "--admin=127.0.0.1:0"])
            .arg(format!("--drain-delay={}ms", drain_delay.as_millis()))
            // None of them is for want of time.
            .arg("--deadline=60s")
            .env("PLIMSOLL__FAULT_TOLERANCE__TIMEOUT", "60s")
            .env("PLIMSOLL__FAULT_TOLERANCE__QUEUE_TIMEOUT", "60s")
            .arg(format!("--docs={}", folder.display()))
            .arg(format!("--data={}", folder.join("data").display()))
            .env("RUST_LOG", "warn")
            .stdout(Stdio::piped())
            .spawn()?;
        let mut output = BufReader::new(process.stdout.take().ok_or("no standard output")?);
        let mut address = |prefix: &str| -> Result<SocketAddr> {
            let mut line = String::new();
            output.read_line(&mut line)?;
            let addr = line
                .trim()
                .strip_prefix(prefix)
                .ok_or_else(|| line.clone())?;
            Ok(addr.parse()?)
        };
        let gateway = Self {
            listen: address("listening on http://")?,
            admin: address("admin on http://")?,
            process,
            output,
        };
        while !gateway.is_ready() {
            thread::park_timeout(POLL);
        }
        Ok(gateway)
    }

    fn is_ready(&self) -> bool {
        let head = "GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        exchange(self.admin, head.as_bytes()).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    fn terminate(&self) -> Result<()> {
        let pid = self.process.id().to_string();
        let killed = Command::new("kill").args(["-TERM", &pid]).status()?;
        if !killed.success() {
            return Err("the gateway cannot be signalled".into());
        }
        while self.is_ready() {
            thread::park_timeout(POLL);
        }
        Ok(())
    }

    /// Waits for the end, and returns what was said.
    fn ended(mut self) -> Result<String> {
        let mut said = String::new();
        self.output.read_to_string(&mut said)?;
        let status = self.process.wait()?;
        if !status.success() {
            return Err(format!("the gateway ended with {status}:\n{said}").into());
        }
        Ok(said)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

// === nginx ===

struct Nginx {
    process: Child,
    program: PathBuf,
    folder: PathBuf,
    addr: SocketAddr,
}

impl Nginx {
    fn start(program: &Path, folder: &Path, gateways: &[Gateway]) -> Result<Self> {
        for _ in 0..5 {
            // Free until nginx takes it, unless somebody else does.
            let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
            configure(folder, addr, gateways)?;
            let process = command(program, folder)
                .args(["-g", "daemon off;"])
                .spawn()?;
            let mut proxy = Self {
                process,
                program: program.to_owned(),
                folder: folder.to_owned(),
                addr,
            };
            while proxy.process.try_wait()?.is_none() {
                if TcpStream::connect(addr).is_ok() {
                    return Ok(proxy);
                }
                thread::park_timeout(POLL);
            }
        }
        let log = fs::read_to_string(folder.join("error.log")).unwrap_or_default();
        Err(format!("nginx ends at once:\n{log}").into())
    }

    /// Takes up the upstreams as they are now. Returns once new connections go to them.
    fn follow(&self, gateways: &[Gateway]) -> Result<()> {
        let pid = self.process.id().to_string();
        let workers = || -> Result<Vec<String>> {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
            Ok(children.split_whitespace().map(str::to_owned).collect())
        };
        let before = workers()?;
        configure(&self.folder, self.addr, gateways)?;
        let reloaded = command(&self.program, &self.folder)
            .arg("-sreload")
            .status()?;
        if !reloaded.success() {
            return Err("nginx cannot be reloaded".into());
        }
        // The new workers take over before the old ones end.
        while workers()?.iter().any(|worker| before.contains(worker)) {
            thread::park_timeout(POLL);
        }
        Ok(())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Not by a kill of the master, which would leave its workers behind.
        let _ = command(&self.program, &self.folder).arg("-sstop").status();
        let _ = self.process.wait();
    }
}

fn command(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .arg("-p")
        .arg(folder)
        .args(["-c", "nginx.conf", "-e", "error.log"]);
    command
}

fn configure(folder: &Path, addr: SocketAddr, gateways: &[Gateway]) -> Result<()> {
    let servers: String = gateways
        .iter()
        .map(|gateway| format!("server {} max_fails=0;\n", gateway.listen))
        .collect();
    // Keep-alive upstreams are the hard case: a connection must not be closed under a request.
    let text = format!(
        "worker_processes 1;
pid nginx.pid;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    upstream gateways {{
        {servers}
        keepalive 16;
    }}
    server {{
        listen {addr};
        location / {{
            proxy_pass http://gateways;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_next_upstream off;
        }}
    }}
}}
"
    );
    Ok(fs::write(folder.join("nginx.conf"), text)?)
}

fn find_nginx() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join("nginx"))
        .find(|program| program.is_file())
}

// === The load ===

/// Clients that ask one question after the other, each on a connection of its own.
struct Load {
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
    clients: Vec<thread::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(addr: SocketAddr) -> Self {
        let (stop, requests) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let clients = (0..CLIENTS)
            .map(|_| {
                let (stop, requests) = (stop.clone(), requests.clone());
                thread::spawn(move || {
                    let mut failures = Vec::new();
                    while !stop.load(Relaxed) && failures.len() < 10 {
                        if let Err(failure) = ask(addr) {
                            failures.push(failure.to_string());
                        }
                        requests.fetch_add(1, Relaxed);
                    }
                    failures
                })
            })
            .collect();
        Self {
            stop,
            requests,
            clients,
        }
    }

    fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    fn wait_for(&self, requests: u64) -> Result<()> {
        while self.requests() < requests {
            if self.clients.iter().all(thread::JoinHandle::is_finished) {
                return Err("every client has given up".into());
            }
            thread::park_timeout(POLL);
        }
        Ok(())
    }

    fn stop(self) -> (u64, Vec<String>) {
        self.stop.store(true, Relaxed);
        let failures = self
            .clients
            .into_iter()
            .flat_map(|client| client.join().unwrap_or_else(|_| vec!["panicked".into()]))
            .collect();
        (self.requests.load(Relaxed), failures)
    }
}

fn ask(addr: SocketAddr) -> Result<()> {
    let body = r#"{"question": "How does the service stop?"}"#;
    let request = format!(
        "POST /ask HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = exchange(addr, request.as_bytes())?;
    let whole = answer.starts_with("HTTP/1.1 200") && answer.trim_end().ends_with('}');
    whole.then_some(()).ok_or_else(|| answer.into())
}

fn exchange(addr: SocketAddr, request: &[u8]) -> Result<String> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(request)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
