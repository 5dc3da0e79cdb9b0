//! The program as a whole: what it prints, and how it refuses to start.

use serde_json::Value;
use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
};

/// How long calls may take and wait where it is not this that is tested: on a machine that is slow,
/// nothing is told of those that took too long. Nor is anything dropped where others have taken the memory
/// of the machine.
const PATIENT: [(&str, &str); 3] = [
    ("PLIMSOLL__FAULT_TOLERANCE__TIMEOUT", "60s"),
    ("PLIMSOLL__FAULT_TOLERANCE__QUEUE_TIMEOUT", "60s"),
    ("PLIMSOLL__MEMORY__MONITOR__SHRINK", "false"),
];

/// A folder for one test, with a little markdown in it.
fn folder(test: &str) -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a new folder");
    fs::write(folder.join("README.md"), "The service stops in phases.").expect("a new file");
    folder.to_str().expect("a path in UTF-8").to_owned()
}

fn run(args: &[&str]) -> Output {
    run_with(args, &[])
}

fn run_with(args: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_adapter-gateway"))
        .args(args)
        .envs(variables.iter().copied())
        .output()
        .expect("the program runs")
}

fn refused(args: &[&str], code: i32) -> String {
    let output = run(args);
    assert_eq!(output.status.code(), Some(code));
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr).expect("text")
}

/// A copy of the configuration, and a folder for the rest.
struct Files {
    root: String,
    config: PathBuf,
}

impl Files {
    fn new(test: &str) -> Self {
        let root = folder(test);
        let config = Path::new(&root).join("config");
        fs::create_dir_all(&config).expect("a new folder");
        let files = Self { root, config };
        for name in ["config.yaml", "adapters.yaml"] {
            files.write(name, &files.committed(name));
        }
        files
    }

    fn committed(&self, name: &str) -> String {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
        fs::read_to_string(folder.join(name)).expect("a file")
    }

    /// Puts a file in its place at once, since one that is read half written is another file.
    fn write(&self, name: &str, text: &str) {
        let new = self.config.join(format!("{name}.new"));
        fs::write(&new, text).expect("a file");
        fs::rename(new, self.config.join(name)).expect("a file");
    }

    /// Changes the list of adapters as it was committed.
    fn change<const N: usize>(&self, changes: [(&str, &str); N]) {
        self.change_file("adapters.yaml", changes);
    }

    /// Changes a file as it was committed.
    fn change_file<const N: usize>(&self, name: &str, changes: [(&str, &str); N]) {
        let mut text = self.committed(name);
        for (old, new) in changes {
            assert!(text.contains(old), "{old}");
            text = text.replace(old, new);
        }
        self.write(name, &text);
    }

    fn arg(&self) -> String {
        format!("--config={}", self.config.display())
    }
}

/// The program, serving.
struct Running {
    process: Child,
    output: BufReader<ChildStdout>,
    listen: SocketAddr,
    admin: SocketAddr,
}

impl Running {
    fn start(test: &str, drain_delay: &str) -> Self {
        Self::start_with(test, &[&format!("--drain-delay={drain_delay}")])
    }

    fn start_with(test: &str, args: &[&str]) -> Self {
        Self::start_in(&folder(test), args, &[])
    }

    /// Starts it with a configuration of its own.
    fn start_configured(files: &Files, variables: &[(&str, &str)]) -> Self {
        Self::start_in(&files.root, &[&files.arg()], variables)
    }

    fn start_in(root: &str, args: &[&str], variables: &[(&str, &str)]) -> Self {
        let has_deadline = args.iter().any(|arg| arg.starts_with("--deadline="));
        let mut process = Command::new(env!("CARGO_BIN_EXE_adapter-gateway"))
            .args(["--listen=127.0.0.1:0", "--admin=127.0.0.1:0"])
            .args([format!("--docs={root}"), format!("--data={root}/data")])
            .args((!has_deadline).then_some("--deadline=60s"))
            .args(args)
            .envs(PATIENT)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program runs");
        let mut output = BufReader::new(process.stdout.take().expect("piped"));
        let mut address = |prefix: &str| {
            let mut line = String::new();
            output.read_line(&mut line).expect("a line");
            let addr = line.trim().strip_prefix(prefix).expect("an address");
            addr.parse().expect("an address")
        };
        let running = Self {
            listen: address("listening on http://"),
            admin: address("admin on http://"),
            process,
            output,
        };
        // From then on a signal stops it in good order.
        while !running.is_ready() {}
        running
    }

    /// Sends a request, and waits only until the service has it in hand.
    fn begin(&self, path: &str, body: &str) -> TcpStream {
        let mut stream = self.begin_without_body(path, body.len());
        stream.write_all(body.as_bytes()).expect("sent");
        stream
    }

    /// Sends the head of a request, and waits until the service has it in hand, where it stays until
    /// the body comes.
    fn begin_without_body(&self, path: &str, length: usize) -> TcpStream {
        let mut stream = TcpStream::connect(self.listen).expect("a connection");
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             expect: 100-continue\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n"
        )
        .expect("sent");
        // The handler has asked for the body, so the request is in flight.
        let mut go_on = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
        stream.read_exact(&mut go_on).expect("told to go on");
        stream
    }

    fn set_fault(&self, mode: &str) {
        let body = format!(r#"{{"mode": "{mode}"}}"#);
        let answer = rest(self.begin("/demo/faults", &body));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    fn is_ready(&self) -> bool {
        self.administer("/readyz").starts_with("HTTP/1.1 200")
    }

    /// What the admin listener answers.
    fn administer(&self, path: &str) -> String {
        get(self.admin, path)
    }

    fn get(&self, path: &str) -> String {
        get(self.listen, path)
    }

    /// What an adapter is told to be like, if there is one.
    fn adapter(&self, name: &str) -> Option<Value> {
        let status = document(&self.get("/adapters"));
        let adapters = status["adapters"].as_array().expect("a list");
        adapters.iter().find(|it| it["name"] == name).cloned()
    }

    /// The status of a reload, and what it says.
    fn reload(&self) -> (String, Value) {
        let answer = exchange(self.admin, "POST", "/api/v1/config/reload", "");
        let status = answer.split(' ').nth(1).expect("a status").to_owned();
        (status, document(&answer))
    }

    fn problems(&self) -> Vec<Value> {
        let shown = document(&self.administer("/api/v1/config"));
        shown["problems"].as_array().expect("a list").clone()
    }

    fn ask(&self, adapter: &str) -> String {
        let question = format!(r#"{{"question": "stop?", "adapters": ["{adapter}"]}}"#);
        rest(self.begin("/ask", &question))
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Waits for the end: the exit code, and what was said.
    fn ended(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.output.read_to_string(&mut said).expect("text");
        (self.process.wait().expect("it ends").code(), said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

fn get(addr: SocketAddr, path: &str) -> String {
    exchange(addr, "GET", path, "")
}

fn exchange(addr: SocketAddr, method: &str, path: &str, header: &str) -> String {
    String::from_utf8(exchange_bytes(addr, method, path, header)).expect("a text")
}

fn exchange_bytes(addr: SocketAddr, method: &str, path: &str, header: &str) -> Vec<u8> {
    try_exchange(addr, method, path, header).expect("an answer")
}

fn try_exchange(addr: SocketAddr, method: &str, path: &str, header: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(addr)?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{header}\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// The body of an answer.
fn document(answer: &str) -> Value {
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    serde_json::from_str(body).expect("JSON")
}

/// Whether there is something to read.
fn is_answered(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a socket");
    let seen = stream.peek(&mut [0]);
    stream.set_nonblocking(false).expect("a socket");
    seen.is_ok()
}

fn rest(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn sigterm_lets_the_request_in_flight_end_and_reports() {
    let program = Running::start("program-sigterm", "0");
    program.set_fault("slow");
    let question = r#"{"question": "stop?", "adapters": ["demo-flaky", "qa-sql"]}"#;
    let mut request = program.begin_without_body("/ask", question.len());
    program.signal("-TERM");
    while program.is_ready() {}
    request.write_all(question.as_bytes()).expect("sent");
    let answer = rest(request);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains(r#""failures":{}"#), "{answer}");
    let (code, said) = program.ended();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("stopped on SIGTERM"), "{said}");
    assert!(
        said.contains("http: 1 requests finished while draining, 0 cut off"),
        "{said}"
    );
}

#[test]
fn a_signal_delivered_twice_is_one_request() {
    // A machine that stands still between the two for a quarter of a second makes two of them.
    let mut said = Vec::new();
    for _ in 0..3 {
        let program = Running::start("program-twice", "0");
        let question = r#"{"question": "stop?", "adapters": ["demo-flaky"]}"#;
        let mut request = program.begin_without_body("/ask", question.len());
        program.signal("-TERM");
        program.signal("-TERM");
        // If it takes them for two, it may be gone.
        let ready = || try_exchange(program.admin, "GET", "/readyz", "");
        while ready().is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 200")) {}
        _ = request.write_all(question.as_bytes());
        let mut answer = String::new();
        _ = request.read_to_string(&mut answer);
        let (code, report) = program.ended();
        if code == Some(0) && answer.starts_with("HTTP/1.1 200") {
            return;
        }
        said.push((code, report, answer));
    }
    panic!("{said:#?}");
}

/// How many seconds a stop has taken.
fn stopped_after(said: &str, reason: &str) -> f64 {
    let (_, rest) = said
        .split_once(&format!("stopped on {reason} after "))
        .unwrap_or_else(|| panic!("{said}"));
    let seconds = rest.split(' ').next().expect("a number");
    seconds.parse().expect("a number")
}

#[test]
fn sigint_waits_for_no_drain_delay() {
    let program = Running::start("program-sigint", "20s");
    program.signal("-INT");
    let (code, said) = program.ended();
    assert_eq!(code, Some(0), "{said}");
    assert!(stopped_after(&said, "SIGINT") < 20.0, "{said}");
}

#[test]
fn a_second_signal_ends_the_stop_at_once() {
    let program = Running::start("program-second", "20s");
    program.signal("-TERM");
    // Signals close together are one, so it takes some until one of them is the second.
    let pid = program.process.id().to_string();
    let mut program = program;
    while program.process.try_wait().expect("a child").is_none() {
        // It may have ended just now.
        _ = Command::new("kill")
            .args(["-TERM", &pid])
            .stderr(Stdio::null())
            .status();
    }
    let (code, said) = program.ended();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("cut short by a second request"), "{said}");
}

#[test]
fn an_open_circuit_is_refused_and_shown_and_does_not_mar_the_stop() {
    let program = Running::start("program-breaker", "0");
    program.set_fault("fail");
    let question = r#"{"question": "open?", "adapters": ["demo-flaky"]}"#;
    let answer = rest(program.begin("/ask", question));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let answer = rest(program.begin("/ask", question));
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("\r\nretry-after: "), "{answer}");
    assert!(
        answer.contains("demo-flaky refused: the circuit is open, retry after "),
        "{answer}"
    );
    let holdings = program.administer("/api/v1/holdings");
    for name in ["qa-sql", "qa-vector-chroma", "demo-flaky"] {
        assert!(holdings.contains(&format!(r#""{name}""#)), "{holdings}");
    }
    program.signal("-TERM");
    let (code, said) = program.ended();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("holdings: 5 closed"), "{said}");
}

#[test]
fn limits_change_with_the_file_and_the_circuit_stays_as_it_is() {
    let files = Files::new("program-limits");
    let program = Running::start_configured(&files, &[]);
    let forced = "/api/v1/breakers/qa-sql/force-open";
    let answer = exchange(program.admin, "POST", forced, "");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let sql = || program.adapter("qa-sql").expect("listed");
    assert_eq!(sql()["limits"]["queued"], 256);
    files.change([("max_queued: 256", "max_queued: 7")]);
    let (status, said) = program.reload();
    assert_eq!(status, "200", "{said}");
    // The watch may have been there before.
    for change in said["changes"].as_array().expect("a list") {
        let key = "adapters.qa-sql.fault_tolerance.max_queued";
        assert_eq!((&change["key"], &change["new"]), (&key.into(), &"7".into()));
    }
    assert_eq!(sql()["limits"]["queued"], 7);
    assert_eq!(sql()["state"], "forced_open");
    // By itself.
    files.change([
        ("max_queued: 256", "max_queued: 8"),
        ("by_default: true", "by_default: false"),
    ]);
    while sql()["limits"]["queued"] != 8 {}
    assert_eq!(sql()["state"], "forced_open");
    // Once this has its turn, the change before is over.
    program.reload();
    assert_eq!(sql()["by_default"], false);
    assert_eq!(
        rest(program.begin("/ask", r#"{"question": "who?"}"#))
            .split_once("\r\n\r\n")
            .expect("a body")
            .1,
        r#"{"answers":{},"failures":{}}"#
    );
}

#[test]
fn adapters_come_and_go_with_the_file_and_calls_in_flight_have_their_answers() {
    let files = Files::new("program-adapters");
    let program = Running::start_configured(&files, &[]);
    program.set_fault("slow");
    let question = r#"{"question": "stop?", "adapters": ["demo-flaky"]}"#;
    let in_flight = loop {
        let request = program.begin("/ask", question);
        let busy = |it: Value| it["in_flight"] == 1;
        while !program.adapter("demo-flaky").is_some_and(busy) && !is_answered(&request) {}
        // It answers after a second, in which one has to look.
        if !is_answered(&request) {
            break request;
        }
    };
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("url: http://{}", elsewhere.local_addr().unwrap());
    drop(elsewhere);
    files.change([
        ("name: demo-flaky", "name: flaky-too"),
        ("name: qa-vector-chroma", "name: vector-too"),
        (
            "adapters:\n",
            &format!(
                "adapters:\n\
                 \x20 - name: elsewhere\n    type: http\n    {url}\n\
                 \x20 - name: narrow\n    type: http\n    url: demo\n    client: {{max_response_bytes: 1}}\n"
            ),
        ),
    ]);
    let (status, said) = program.reload();
    assert_eq!(status, "200", "{said}");
    for gone in ["demo-flaky", "qa-vector-chroma"] {
        assert_eq!(program.adapter(gone), None);
        let answer = program.ask(gone);
        assert!(answer.starts_with("HTTP/1.1 422"), "{answer}");
    }
    let answer = program.ask("vector-too");
    assert!(answer.contains(r#"{"vector-too":{"passages":"#), "{answer}");
    let answer = program.ask("elsewhere");
    assert!(answer.contains("could not connect"), "{answer}");
    let answer = program.ask("narrow");
    assert!(
        answer.contains("larger than `max_response_bytes`, 1"),
        "{answer}"
    );
    assert!(program.get("/").contains("by default (qa-sql, vector-too)"));
    let answer = rest(in_flight);
    assert!(answer.contains("You asked: stop?"), "{answer}");
    // Another URL or client makes another adapter of the same name.
    files.change([]);
    program.reload();
    let answer = program.ask("qa-vector-chroma");
    assert!(answer.contains(r#""failures":{}"#), "{answer}");
    let narrow = "url: demo\n    client: {max_response_bytes: 1}";
    files.change([("url: demo", narrow)]);
    program.reload();
    let answer = program.ask("qa-vector-chroma");
    assert!(
        answer.contains("larger than `max_response_bytes`, 1"),
        "{answer}"
    );
    files.change([("url: demo", &url)]);
    program.reload();
    let answer = program.ask("qa-vector-chroma");
    assert!(answer.contains("could not connect"), "{answer}");
    program.signal("-TERM");
    // Those that are gone are not; the index and the log of heavy requests are there besides.
    let (code, said) = program.ended();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("holdings: 5 closed"), "{said}");
}

#[test]
fn an_adapter_over_http_has_as_many_connections_as_its_file_says() {
    let files = Files::new("program-connections");
    // Takes connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("url: http://{}\n", silent.local_addr().unwrap());
    files.change([("url: demo\n", &(url + "    client: {max_connections: 1}\n"))]);
    let program = Running::start_configured(&files, &[]);
    let question = r#"{"question": "stop?", "adapters": ["qa-vector-chroma"]}"#;
    let _first = program.begin("/ask", question);
    let _held = silent.accept().expect("a connection");
    let answer = program.ask("qa-vector-chroma");
    assert!(answer.contains("no connection free"), "{answer}");
}

#[test]
fn a_file_that_cannot_be_used_changes_nothing_and_is_told_of_until_it_is_mended() {
    let files = Files::new("program-broken");
    let program = Running::start_configured(&files, &[]);
    files.change([
        ("max_queued: 256", "max_queued: 7"),
        (
            "name: demo-flaky\n    type: flaky",
            "name: demo-flaky\n    type: flakey",
        ),
    ]);
    let (status, said) = program.reload();
    assert_eq!(status, "422", "{said}");
    let text = fs::read_to_string(files.config.join("adapters.yaml")).unwrap();
    let line = text.lines().position(|line| line.contains("flakey"));
    let told = |problems: &[Value]| {
        problems.iter().any(|it| {
            it["key"] == "adapters.demo-flaky.type"
                && it["line"].as_u64() == line.map(|line| line as u64 + 1)
                && it["column"] == 11
                && it["expected"] == "one of sql, http, flaky"
        })
    };
    assert!(told(said["problems"].as_array().expect("a list")), "{said}");
    assert!(told(&program.problems()));
    let sql = || program.adapter("qa-sql").expect("listed");
    assert_eq!(sql()["limits"]["queued"], 256);
    for adapter in ["qa-sql", "qa-vector-chroma", "demo-flaky"] {
        let answer = program.ask(adapter);
        assert!(answer.contains(r#""failures":{}"#), "{answer}");
    }
    files.change([("max_queued: 256", "max_queued: 7")]);
    let (status, said) = program.reload();
    assert_eq!(status, "200", "{said}");
    assert_eq!(sql()["limits"]["queued"], 7);
    assert!(program.problems().is_empty());
}

#[test]
fn a_configuration_that_cannot_be_used_is_refused_with_every_mistake() {
    let files = Files::new("program-mistakes");
    files.write(
        "config.yaml",
        "lifecycle:\n  drain_delay: 30s\nfault_tolerence:\n  timeout: 2s\n",
    );
    files.write(
        "adapters.yaml",
        "adapters:\n\
         - name: a\n  type: sqlite\n\
         - name: b\n  type: http\n\
         - name: c\n  type: http\n  url: https://example.com\n\
         - name: d\n  type: sql\n  url: demo\n  fault_tolerance: {max_in_flight: 0}\n",
    );
    let error = refused(&[&files.arg()], 2);
    let folder = files.config.display();
    let url = "a URL like http://127.0.0.1:8000, or demo, for an adapter of type http";
    let expected = format!(
        "adapter-gateway: 7 problems:
  {folder}/config.yaml:2:16: `lifecycle.drain_delay` is 30s, but must be shorter than stop_timeout, 25s
  {folder}/config.yaml:3:1: `fault_tolerence` is not known: did you mean `fault_tolerance`?
  {folder}/adapters.yaml:3:9: `adapters.a.type` is sqlite, but must be one of sql, http, flaky
  {folder}/adapters.yaml:5:9: `adapters.b.url` is none, but must be {url}
  {folder}/adapters.yaml:8:8: `adapters.c.url` is https://example.com, but must be {url}
  {folder}/adapters.yaml:11:8: `adapters.d.url` is demo, but must be left out: only an adapter of \
         type http has one
  {folder}/adapters.yaml:12:36: `adapters.d.fault_tolerance.max_in_flight` is 0, but must be a \
         whole number between 1 and 1000000
"
    );
    assert_eq!(error, expected);
    // One mistake is one line.
    files.write("config.yaml", "");
    files.write("adapters.yaml", "adapters:\n- name: a\n  type: sqlite\n");
    let error = refused(&[&files.arg(), "--print-config"], 2);
    assert_eq!(
        error,
        format!(
            "adapter-gateway: {folder}/adapters.yaml:3:9: `adapters.a.type` is sqlite, but must \
             be one of sql, http, flaky\n"
        )
    );
    let empty = format!("--config={}/none", files.root);
    let error = refused(&[&empty], 2);
    assert!(error.contains("/none/config.yaml"), "{error}");
    assert!(error.contains("name another folder"), "{error}");
}

/// Every setting with its value, and where that comes from.
fn printed(args: &[&str], variables: &[(&str, &str)]) -> String {
    let output = run_with(&[args, &["--print-config"]].concat(), variables);
    assert_eq!(output.status.code(), Some(0));
    String::from_utf8(output.stdout).expect("text")
}

fn values(printed: &str) -> String {
    let values = printed.lines().map(|line| line.split(" # ").next());
    values
        .flatten()
        .fold(String::new(), |all, line| all + line + "\n")
}

#[test]
fn a_configuration_that_was_printed_says_the_same_when_it_is_read() {
    let files = Files::new("program-printed");
    let first = printed(&[&files.arg()], &[]);
    for line in ["  record_threshold: 10000 # ", "        preset: network # "] {
        assert!(first.contains(line), "{first}");
    }
    let (config, adapters) = first.split_once("\nadapters:").expect("a list");
    files.write("config.yaml", config);
    files.write("adapters.yaml", &format!("adapters:{adapters}"));
    let again = printed(&[&files.arg()], &[]);
    assert_eq!(values(&again), values(&first));
    assert_ne!(again, first);
}

#[test]
fn variables_count_more_than_files_and_the_command_line_most() {
    let timeout = "PLIMSOLL__ADAPTERS__QA_SQL__FAULT_TOLERANCE__TIMEOUT";
    let delay = "PLIMSOLL__LIFECYCLE__DRAIN_DELAY";
    let variables = [(timeout, "7s"), (delay, "3s")];
    let text = printed(&[], &variables);
    assert!(
        text.contains(&format!("timeout: \"7s\" # {timeout}")),
        "{text}"
    );
    assert!(
        text.contains(&format!("drain_delay: \"3s\" # {delay}")),
        "{text}"
    );
    assert!(text.contains("admin_addr: \"127.0.0.1:8081\" # "), "{text}");
    let text = printed(&["--drain-delay=1500ms", "--admin=127.0.0.1:9"], &variables);
    assert!(text.contains("drain_delay: \"1s500ms\" # "), "{text}");
    assert!(text.contains("admin_addr: \"127.0.0.1:9\" # "), "{text}");
}

#[test]
fn the_token_is_shown_nowhere() {
    let files = Files::new("program-token");
    let token = "not-to-be-shown-to-anybody";
    let variables = [("PLIMSOLL__CONTROL__TOKEN", token)];
    let text = printed(&[&files.arg()], &variables);
    assert!(text.contains("# token: ***"), "{text}");
    assert!(!text.contains(token), "{text}");
    let program = Running::start_configured(&files, &variables);
    let bearer = format!("authorization: Bearer {token}\r\n");
    let shown = exchange(program.admin, "GET", "/api/v1/config", &bearer);
    assert!(shown.starts_with("HTTP/1.1 200"), "{shown}");
    assert!(shown.contains("***") && !shown.contains(token), "{shown}");
}

/// What a short load run says.
fn load(test: &str, flip: &str) -> String {
    load_for(&folder(test), &["--load=600ms", flip])
}

fn load_for(root: &str, args: &[&str]) -> String {
    let folders = [format!("--docs={root}"), format!("--data={root}/data")];
    // It stops without the delay.
    let common = [
        "--listen=127.0.0.1:0",
        "--admin=127.0.0.1:0",
        "--deadline=60s",
        "--drain-delay=20s",
    ];
    let folders = [&*folders[0], &*folders[1]];
    let output = run_with(&[&common[..], &folders, args].concat(), &PATIENT);
    assert_eq!(output.status.code(), Some(0));
    String::from_utf8(output.stdout).expect("text")
}

/// Loads it for so many milliseconds, and for longer on a machine on which that is too short for
/// what is to be seen.
fn load_until_seen(
    millis: u64,
    load_for: impl Fn(u64) -> String,
    is_seen: impl Fn(&str) -> bool,
) -> String {
    for times in [1, 4, 16, 64] {
        let text = load_for(times * millis);
        assert!(text.contains("\nerrors    0\n"), "{text}");
        if is_seen(&text) || times == 64 {
            return text;
        }
    }
    unreachable!("the last returns")
}

#[test]
fn adapters_that_change_under_load_lose_no_answer() {
    let root = folder("program-reloads");
    let load = |millis: u64| {
        let load = format!("--load={millis}ms");
        load_for(&root, &[&load, "--flip=200ms", "--reload-every=50ms"])
    };
    let counts = |text: &str| -> Vec<u64> {
        let mut lines = text.lines();
        let line = lines.find_map(|line| line.strip_prefix("reloads   "));
        let counts = line.expect("told").split(' ');
        counts.filter_map(|word| word.parse().ok()).collect()
    };
    let is_enough = |counts: &[u64]| counts[0] > 1 && counts[1] > 0;
    let text = load_until_seen(1_300, load, |text| is_enough(&counts(text)));
    for expected in [
        " questions answered once, 0 lost, 0 doubled\n",
        " broken files refused, 0 went wrong\n",
        "\nadapter   load-guest: ",
        "\npermits   0 in flight and 0 in line at the end\n",
        " MiB of heap after ",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    assert!(is_enough(&counts(&text)), "{text}");
    // The copy is gone.
    let left = fs::read_dir(format!("{root}/data")).expect("a folder");
    assert_eq!(left.count(), 1);
}

#[test]
fn load_run_stops_by_itself_and_sums_up() {
    let text = load("program-load", "--flip=1h");
    let lines: Vec<_> = text.lines().collect();
    assert!(
        lines[0].starts_with("listening on http://127.0.0.1:"),
        "{text}"
    );
    assert!(lines[1].starts_with("admin on http://127.0.0.1:"), "{text}");
    assert!(
        lines[2..6].iter().all(|line| line.starts_with("curl ")),
        "{text}"
    );
    for line in [
        "errors    0",
        "permits   0 in flight and 0 in line at the end",
        "breaker   qa-sql: opened 0 times, recovered 0 times, closed now",
        "breaker   qa-vector-chroma: opened 0 times, recovered 0 times, closed now",
        "breaker   demo-flaky: opened 0 times, recovered 0 times, closed now",
    ] {
        assert!(lines.contains(&line), "{text}");
    }
    assert!(stopped_after(&text, "request") < 20.0, "{text}");
    let requests = lines
        .iter()
        .find_map(|line| line.strip_prefix("requests  "));
    let requests = requests.and_then(|line| line.split(' ').next());
    let requests = requests.expect("a count");
    let answers =
        format!("answers   {requests} of {requests} questions answered once, 0 lost, 0 doubled");
    assert!(lines.contains(&&*answers), "{text}");
    for adapter in ["demo-flaky", "qa-sql", "qa-vector-chroma"] {
        let line = format!("adapter   {adapter}: {requests} calls, {requests} answered");
        assert!(lines.contains(&&*line), "{text}");
    }
}

#[test]
fn faults_under_load_are_failures_of_the_adapter_and_not_of_the_gateway() {
    let root = folder("program-faults");
    let load = |millis: u64| {
        let load = format!("--load={millis}ms");
        load_for(&root, &[&load, &format!("--flip={}ms", millis / 3)])
    };
    let line = |text: &str, prefix: &str| {
        let mut lines = text.lines();
        let line = lines.find_map(|line| line.strip_prefix(prefix));
        line.expect("a line for each adapter").to_owned()
    };
    let has_failed = |text: &str| {
        let line = line(text, "adapter   demo-flaky: ");
        line.contains(" failed, ") && line.contains(" rejected")
    };
    let text = load_until_seen(600, load, has_failed);
    assert!(has_failed(&text), "{text}");
    let breaker = line(&text, "breaker   demo-flaky: ");
    assert!(!breaker.starts_with("opened 0 times"), "{text}");
}

#[test]
fn a_fault_is_left_alone_under_load_if_told_so() {
    let text = load("program-no-faults", "--flip=0");
    assert!(text.contains("demo-flaky: opened 0 times"), "{text}");
}

#[test]
fn adapters_have_until_the_deadline_and_the_flaky_one_is_asked_by_its_name_only() {
    let program = Running::start_with("program-by-name", &[]);
    program.set_fault("hang");
    let answer = rest(program.begin("/ask", r#"{"question": "stop?"}"#));
    assert!(answer.contains(r#""failures":{}"#), "{answer}");
    assert!(!answer.contains("demo-flaky"), "{answer}");
    let program = Running::start_with("program-deadline", &["--deadline=700ms"]);
    program.set_fault("hang");
    let question = r#"{"question": "stop?", "adapters": ["demo-flaky"]}"#;
    let answer = rest(program.begin("/ask", question));
    assert!(answer.contains("no answer within 700ms"), "{answer}");
}

#[test]
fn a_client_that_goes_away_cancels_the_calls_of_its_question() {
    let program = Running::start("program-gone", "0");
    program.set_fault("hang");
    let question = r#"{"question": "gone?", "adapters": ["demo-flaky", "qa-sql"]}"#;
    let adapter = |expected: &str| {
        let status = program.get("/adapters");
        let (_, demo) = status.split_once(r#""name":"demo-flaky""#).expect("told");
        demo.split_once("limits")
            .expect("told")
            .0
            .contains(expected)
            || demo
                .split_once("retries")
                .expect("told")
                .0
                .contains(expected)
    };
    let request = program.begin("/ask", question);
    while !adapter(r#""in_flight":1,"#) {}
    drop(request);
    while !adapter(r#""in_flight":0,"#) {}
    // Not by its timeout.
    assert!(adapter(r#""cancelled":1,"#));
    assert!(adapter(r#""timed_out":0,"#));
}

#[test]
fn bad_command_lines_are_explained() {
    for (arg, expected) in [
        ("--nonsense", "unexpected argument '--nonsense'"),
        ("--listen=here", "'here' for '--listen <ADDR>'"),
        ("--admin=127.0.0.1:99999", "'--admin <ADDR>'"),
        ("--load=soon", "write for example 30s"),
        ("--load=2h", "at most 1h"),
        ("--reload-every=1s", "--load <DURATION>"),
        ("--flip=2h", "at most 1h"),
        ("--deadline=0", "more than 0"),
    ] {
        let error = refused(&[arg], 2);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn what_keeps_it_from_starting_is_said_in_one_line() {
    let root = folder("program-refused");
    let docs = format!("--docs={root}");
    let data = format!("--data={root}/data");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let listen = "--listen=127.0.0.1:0";
    let admin = "--admin=127.0.0.1:0";
    for (args, flag, remedy) in [
        (
            [listen, &*format!("--admin={taken}"), &docs, &data],
            format!("--admin {taken}: "),
            "the port is in use",
        ),
        (
            [&*format!("--listen={taken}"), admin, &docs, &data],
            format!("--listen {taken}: "),
            "choose another port, or 0",
        ),
        (
            [listen, admin, &format!("--docs={root}/docs"), &data],
            format!("--docs {root}/docs: "),
            "README.md or docs/**/*.md",
        ),
        (
            [
                listen,
                admin,
                &docs,
                &format!("--data={root}/README.md/data"),
            ],
            format!("--data {root}/README.md/data: "),
            "name a folder that can be written",
        ),
    ] {
        let error = refused(&args, 1);
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.contains(&flag), "{error}");
        assert!(error.contains(remedy), "{error}");
    }
}

#[test]
fn a_heap_profile_is_taken_once_blocks_are_sampled() {
    let program = Running::start("program-profile", "0");
    let profile = || exchange_bytes(program.admin, "GET", "/debug/pprof/heap", "");
    assert!(profile().starts_with(b"HTTP/1.1 409"));
    let start = "/api/v1/memory/profile/start?mean_bytes=16384";
    let started = exchange(program.admin, "POST", start, "");
    assert!(started.starts_with("HTTP/1.1 200"), "{started}");
    // Blocks of a MiB are always in such a sample.
    for _ in 0..8 {
        let answer = rest(program.begin("/demo/leak", r#"{"kib": 1024}"#));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let answer = profile();
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    let gzip = answer.windows(2).position(|bytes| bytes == [0x1f, 0x8b]);
    assert!(gzip.is_some(), "it is compressed");
    let state = document(&program.administer("/api/v1/memory/profile"));
    assert_eq!(state["sampling"], true, "{state}");
    assert!(
        state["records_in_use"].as_u64().expect("a number") >= 8,
        "{state}"
    );
}

#[test]
fn a_request_over_its_budget_is_refused_and_shown_and_its_limit_changes_with_the_file() {
    let files = Files::new("program-heavy");
    let program = Running::start_configured(&files, &[]);
    let heavy = |mib: usize| rest(program.begin("/demo/heavy", &format!(r#"{{"mib": {mib}}}"#)));
    let answer = heavy(8);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let refused = heavy(64);
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    for part in [
        "content-type: application/problem+json",
        r#""reason":"over_budget""#,
        r#""source":"/demo/heavy""#,
    ] {
        assert!(refused.contains(part), "{refused}");
    }
    let answer = program.ask("qa-sql");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let shown = document(&program.administer("/api/v1/memory/requests"));
    let mut endpoints = shown["endpoints"].as_array().expect("a list").iter();
    let endpoint = endpoints.find(|endpoint| endpoint["endpoint"] == "/demo/heavy");
    let endpoint = endpoint.expect("it was asked");
    assert_eq!(endpoint["refused"], 1, "{endpoint}");
    assert_eq!(endpoint["budget"]["bytes"], 16 << 20);
    assert_eq!(endpoint["budget"]["mode"], "enforce");
    let peak = endpoint["peak"]["max"].as_u64().expect("bytes");
    assert!((16 << 20..18 << 20).contains(&peak), "{endpoint}");
    assert!(
        endpoint["live_bytes"].as_u64().expect("bytes") < 10_000,
        "{endpoint}"
    );
    let heaviest = &shown["heavy"]["newest"][0];
    assert_eq!(heaviest["endpoint"], "/demo/heavy");
    assert_eq!(heaviest["status"], 503);
    assert_eq!(shown["heavy"]["total"], 2);
    let metrics = program.administer("/metrics");
    let told =
        r#"plimsoll_http_memory_over_budget_total{endpoint="/demo/heavy",outcome="refused"} 1"#;
    assert!(metrics.contains(told), "{metrics}");

    files.change_file(
        "config.yaml",
        [("/demo/heavy: 16MiB", "/demo/heavy: 128MiB")],
    );
    program.reload();
    let answer = heavy(64);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for mib in [0, 257] {
        let answer = heavy(mib);
        assert!(answer.starts_with("HTTP/1.1 422"), "{answer}");
    }
}

#[test]
fn a_route_that_leaks_is_told_with_its_bytes_and_the_others_are_not() {
    let program = Running::start("program-leak", "0");
    for _ in 0..8 {
        let answer = rest(program.begin("/demo/leak", r#"{"kib": 256}"#));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let answer = rest(program.begin("/ask", r#"{"question": "Who leaks?"}"#));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let weighed = || {
        let answer = document(&program.administer("/api/v1/memory/requests"));
        assert_eq!(answer["attribution"], "exact");
        let endpoints = answer["endpoints"].as_array().expect("a list").clone();
        let named = |name: &str| {
            let mut endpoints = endpoints.iter();
            let endpoint = endpoints.find(|endpoint| endpoint["endpoint"] == name);
            endpoint.expect("an endpoint").clone()
        };
        (endpoints[0].clone(), named("/demo/leak"), named("/ask"))
    };
    let (first, leak, ask) = weighed();
    assert_eq!(
        first["endpoint"], "/demo/leak",
        "whoever retains most comes first"
    );
    let retained = leak["retained_bytes"].as_u64().expect("bytes");
    let kept = 8 * 256 * 1_024;
    assert!((kept..kept + kept / 100).contains(&retained), "{leak}");
    assert_eq!(leak["retaining_requests"], 8);
    // The first questions open connections, which stay.
    assert!(
        ask["retained_bytes"].as_u64().expect("bytes") < kept / 20,
        "{ask}"
    );
    assert!(ask["peak"]["max"].as_u64().expect("bytes") > 0, "{ask}");
    let metrics = program.administer("/metrics");
    let told = r#"plimsoll_http_memory_retained_bytes{endpoint="/demo/leak"} "#;
    assert!(metrics.contains(told), "{metrics}");

    for (body, status) in [
        (r#"{"kib": 0}"#, 422),
        (r#"{"kib": 1025}"#, 422),
        ("{}", 422),
    ] {
        let answer = rest(program.begin("/demo/leak", body));
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
    }
    let gone = exchange(program.listen, "DELETE", "/demo/leak", "");
    assert!(gone.ends_with(r#"{"kept_bytes":0}"#), "{gone}");
    let (_, leak, _) = weighed();
    assert!(
        leak["retained_bytes"].as_u64().expect("bytes") < 10_000,
        "{leak}"
    );
}
