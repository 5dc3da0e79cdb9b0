//! The program as a whole: what it prints, and how it refuses to start.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, ChildStdout, Command, Output, Stdio},
};

/// A folder for one test, with a little markdown in it.
fn folder(test: &str) -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a new folder");
    fs::write(folder.join("README.md"), "The service stops in phases.").expect("a new file");
    folder.to_str().expect("a path in UTF-8").to_owned()
}

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_adapter-gateway"))
        .args(args)
        .output()
        .expect("the program runs")
}

fn refused(args: &[&str], code: i32) -> String {
    let output = run(args);
    assert_eq!(output.status.code(), Some(code));
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr).expect("text")
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
        let root = folder(test);
        let mut process = Command::new(env!("CARGO_BIN_EXE_adapter-gateway"))
            .args(["--listen=127.0.0.1:0", "--admin=127.0.0.1:0"])
            .args([format!("--docs={root}"), format!("--data={root}/data")])
            .args(args)
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
        let mut stream = TcpStream::connect(self.listen).expect("a connection");
        let length = body.len();
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
        stream.write_all(body.as_bytes()).expect("sent");
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
    let mut stream = TcpStream::connect(addr).expect("a connection");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    )
    .expect("sent");
    rest(stream)
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
    let request = program.begin("/ask", question);
    program.signal("-TERM");
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
    let program = Running::start("program-twice", "0");
    program.set_fault("slow");
    let question = r#"{"question": "stop?", "adapters": ["demo-flaky"]}"#;
    let request = program.begin("/ask", question);
    program.signal("-TERM");
    program.signal("-TERM");
    let answer = rest(request);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (code, said) = program.ended();
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn sigint_waits_for_no_drain_delay() {
    let program = Running::start("program-sigint", "20s");
    program.signal("-INT");
    let (code, said) = program.ended();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("stopped on SIGINT after 0."), "{said}");
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
    assert!(said.contains("holdings: 4 closed"), "{said}");
}

/// What a short load run says.
fn load(test: &str, flip: &str) -> String {
    let root = folder(test);
    let output = run(&[
        "--listen=127.0.0.1:0",
        "--admin=127.0.0.1:0",
        "--load=600ms",
        flip,
        &format!("--docs={root}"),
        &format!("--data={root}/data"),
    ]);
    assert_eq!(output.status.code(), Some(0));
    String::from_utf8(output.stdout).expect("text")
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
        "breaker   qa-sql: opened 0 times, recovered 0 times, closed now",
        "breaker   qa-vector-chroma: opened 0 times, recovered 0 times, closed now",
        "breaker   demo-flaky: opened 0 times, recovered 0 times, closed now",
    ] {
        assert!(lines.contains(&line), "{text}");
    }
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
    let text = load("program-faults", "--flip=200ms");
    assert!(text.contains("\nerrors    0\n"), "{text}");
    let line = text
        .lines()
        .find(|line| line.starts_with("adapter   demo-flaky: "));
    let line = line.expect("a line for each adapter");
    assert!(
        line.contains(" failed, ") && line.contains(" rejected"),
        "{text}"
    );
    assert!(
        text.contains("breaker   demo-flaky: opened 1 times, recovered 0 times, open now"),
        "{text}"
    );
}

#[test]
fn a_fault_is_left_alone_under_load_if_told_so() {
    let text = load("program-no-faults", "--flip=0");
    assert!(text.contains("demo-flaky: opened 0 times"), "{text}");
}

#[test]
fn adapters_have_until_the_deadline_and_the_flaky_one_is_asked_by_its_name_only() {
    let program = Running::start_with("program-deadline", &["--deadline=700ms"]);
    program.set_fault("hang");
    let answer = rest(program.begin("/ask", r#"{"question": "stop?"}"#));
    assert!(answer.contains(r#""failures":{}"#), "{answer}");
    assert!(!answer.contains("demo-flaky"), "{answer}");
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
                .split_once("memory")
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
