//! The routes, over real connections.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod support;

use plimsoll_admin::{Control, ControlConfig};
use plimsoll_core::{Lifecycle, Registry, test_util::FakeHolding};
use serde_json::{Value, json};
use std::{io::Write, net::TcpStream, time::Duration};
use support::{Odd, any_port, ask, get, post, send, start};

const TOKEN: &str = "0123456789abcdef";
const HOUR: Duration = Duration::from_secs(3_600);

fn keys(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_answer() {
    let lifecycle = Lifecycle::new();
    let (control, addr) = start(&Registry::new(), &lifecycle, None);
    assert_eq!(control.probe_addr(), Some(addr), "one address serves both");

    let alive = get(addr, "/livez");
    assert_eq!((alive.status, &*alive.body), (200, "ok"));
    assert_eq!(alive.header("cache-control"), Some("no-store"));
    assert_eq!(alive.header("x-content-type-options"), Some("nosniff"));
    let ready = get(addr, "/readyz");
    assert_eq!((ready.status, &*ready.body), (503, "starting"));
    lifecycle.set_ready();
    let ready = get(addr, "/readyz");
    assert_eq!((ready.status, &*ready.body), (200, "ready"));

    let head = ask(addr, "HEAD", "/readyz", "");
    assert_eq!((head.status, &*head.body), (200, ""));
    assert_eq!(head.header("content-length"), Some("5"));

    let detail = get(addr, "/metrics").problem(404, "Not Found");
    assert!(detail.contains("install_recorder"), "{detail}");
    control.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holdings_are_listed() {
    let registry = Registry::new();
    let (control, addr) = start(&registry, &Lifecycle::new(), None);
    let none = get(addr, "/api/v1/holdings");
    assert_eq!(none.status, 200);
    let empty = json!({"holdings": [], "total": {"entries": 0, "bytes": 0}});
    assert_eq!(none.json(), empty);

    let sessions = registry
        .register(FakeHolding::must_flush("sessions", HOUR))
        .unwrap();
    sessions.insert(3);
    let (_limited, _) = &{
        let (holding, asked) = Odd::hanging("limited");
        (registry.register(holding).unwrap(), asked)
    };
    let _panicking = registry.register(Odd::panicking("panicking")).unwrap();
    registry.sweep("sessions").await.unwrap();

    let listed = get(addr, "/api/v1/holdings").json();
    assert_eq!(listed["total"], json!({"entries": 4, "bytes": 400}));
    let [sessions, limited, panicking] = &listed["holdings"].as_array().unwrap()[..] else {
        panic!("{listed}");
    };
    assert_eq!(
        keys(sessions),
        [
            "bytes",
            "entries",
            "inserted",
            "last_sweep",
            "max_bytes",
            "max_entries",
            "must_flush",
            "name",
            "next_sweep_in_s",
            "overdue",
            "removed",
            "sweep_panics",
            "sweeps",
            "sweeps_overdue",
            "utilisation"
        ]
    );
    assert_eq!(sessions["name"], "sessions");
    assert_eq!(sessions["entries"], 3);
    assert_eq!(sessions["bytes"], 300);
    assert_eq!(sessions["inserted"], 3);
    assert_eq!(sessions["removed"], json!({}));
    assert_eq!(sessions["must_flush"], true);
    assert_eq!(sessions["overdue"], false);
    assert_eq!(sessions["sweeps"], 1);
    assert_eq!(sessions["max_entries"], Value::Null);
    assert_eq!(sessions["utilisation"], Value::Null);
    let next = sessions["next_sweep_in_s"].as_f64().unwrap();
    assert!((3_000.0..=3_600.0).contains(&next), "{next}");
    let last = &sessions["last_sweep"];
    assert_eq!(
        keys(last),
        [
            "ago_s",
            "elapsed_ms",
            "longest_slice_ms",
            "panicked",
            "removed",
            "slices"
        ]
    );
    assert_eq!(last["slices"], 1);
    assert_eq!(last["panicked"], false);

    assert_eq!(limited["max_entries"], 4);
    assert_eq!(limited["utilisation"], 0.25);
    assert_eq!(limited["last_sweep"], Value::Null);
    assert_eq!(limited.get("error"), None);

    assert_eq!(panicking["entries"], Value::Null);
    assert_eq!(panicking["error"], "the holding panicked when it was asked");
    control.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_holding_is_swept_by_its_name() {
    let registry = Registry::new();
    let (control, addr) = start(&registry, &Lifecycle::new(), None);
    for (name, path) in [
        ("plain", "plain"),
        ("plain", "%70lain"),
        ("qa/sql", "qa%2Fsql"),
        ("größe", "gr%C3%B6%C3%9Fe"),
        ("a b%", "a%20b%25"),
        ("sweep", "sweep"),
        ("..", ".."),
    ] {
        let holding = registry
            .register(FakeHolding::new(name, Duration::ZERO))
            .unwrap();
        holding.insert(2);
        let answer = post(addr, &format!("/api/v1/holdings/{path}/sweep"));
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
        let swept = answer.json();
        assert_eq!(
            keys(&swept),
            [
                "elapsed_ms",
                "longest_slice_ms",
                "name",
                "panicked",
                "removed",
                "slices"
            ]
        );
        assert_eq!(swept["name"], name);
        assert_eq!(swept["removed"], json!({"expired": 2}), "{name}");
        assert_eq!(swept["slices"], 1);
        assert_eq!(holding.held(), 0);
    }
    control.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holding_that_nobody_knows_is_named() {
    let registry = Registry::new();
    let (control, addr) = start(&registry, &Lifecycle::new(), None);
    drop(registry.register(FakeHolding::new("gone", HOUR)).unwrap());
    for (path, named) in [
        ("gone", "no holding is named \"gone\""),
        ("n%C3%B6", "no holding is named \"nö\""),
        ("%22%0A%3Cb%3E", r#"no holding is named "\"\n<b>""#),
        ("%2e%2e%2fx", "no holding is named \"../x\""),
    ] {
        let answer = post(addr, &format!("/api/v1/holdings/{path}/sweep"));
        assert_eq!(answer.problem(404, "Not Found"), named);
    }
    let answer = post(addr, "/api/v1/holdings/%FF/sweep");
    let detail = answer.problem(400, "Bad Request");
    assert!(detail.contains("UTF-8"), "{detail}");
    post(addr, "/api/v1/holdings//sweep").problem(404, "Not Found");
    control.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_holdings_are_swept_and_a_panic_is_told() {
    let registry = Registry::new();
    let (control, addr) = start(&registry, &Lifecycle::new(), None);
    let first = registry
        .register(FakeHolding::new("first", Duration::ZERO))
        .unwrap();
    first.insert(1);
    let second = registry
        .register(FakeHolding::new("second", Duration::ZERO))
        .unwrap();
    second.panic_when_swept(1);
    let answer = post(addr, "/api/v1/holdings/sweep");
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    assert_eq!(keys(&answer), ["swept"]);
    assert_eq!(answer["swept"][0]["name"], "first");
    assert_eq!(answer["swept"][0]["removed"], json!({"expired": 1}));
    assert_eq!(answer["swept"][1]["name"], "second");
    assert_eq!(answer["swept"][1]["panicked"], true);
    assert_eq!(answer["swept"].as_array().unwrap().len(), 2);
    control.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_listed_by_name() {
    let lifecycle = Lifecycle::new();
    lifecycle.set_ready();
    let (control, addr) = start(&Registry::new(), &lifecycle, None);
    let never = std::future::pending::<()>;
    let _tasks = [
        lifecycle.spawn("poll", never()).unwrap(),
        lifecycle.spawn("poll", never()).unwrap(),
        lifecycle.spawn("flush", never()).unwrap(),
    ];
    let listed = get(addr, "/api/v1/tasks").json();
    assert_eq!(
        keys(&listed),
        [
            "max_tasks",
            "panicked",
            "phase",
            "ready",
            "refused",
            "runtime_alive",
            "spawned",
            "tasks",
            "tracked"
        ]
    );
    assert_eq!(listed["phase"], "running");
    assert_eq!(listed["ready"], true);
    assert_eq!(listed["tracked"], 3);
    assert_eq!(listed["max_tasks"], 10_000);
    assert_eq!(listed["spawned"], 3);
    assert_eq!(listed["refused"], 0);
    assert_eq!(listed["panicked"], 0);
    assert_eq!(listed["runtime_alive"], 3, "of the runtime of the service");
    let poll = &listed["tasks"][0];
    assert_eq!(keys(poll), ["count", "name", "oldest_age_s", "site"]);
    assert_eq!((&poll["name"], &poll["count"]), (&json!("poll"), &json!(2)));
    assert!(poll["oldest_age_s"].as_f64().unwrap() >= 0.0);
    assert!(
        poll["site"].as_str().unwrap().contains("routes.rs:"),
        "{poll}"
    );
    control.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_a_problem() {
    let (control, addr) = start(&Registry::new(), &Lifecycle::new(), None);
    let detail = get(addr, "/api/v1/nothing?x=1").problem(404, "Not Found");
    assert_eq!(detail, "there is nothing at /api/v1/nothing");
    for line in ["OPTIONS * HTTP/1.1", "CONNECT localhost:80 HTTP/1.1"] {
        let answer = send(
            addr,
            &format!("{line}\r\nHost: localhost:80\r\nConnection: close\r\n\r\n"),
        );
        answer.problem(404, "Not Found");
    }
    for (method, path, allow) in [
        ("POST", "/api/v1/holdings", "GET,HEAD"),
        ("DELETE", "/api/v1/tasks", "GET,HEAD"),
        ("OPTIONS", "/api/v1/tasks", "GET,HEAD"),
        ("GET", "/api/v1/holdings/sweep", "POST"),
        ("GET", "/api/v1/holdings/x/sweep", "POST"),
        ("POST", "/livez", "GET,HEAD"),
        ("POST", "/metrics", "GET,HEAD"),
    ] {
        let answer = ask(addr, method, path, "");
        let detail = answer.problem(405, "Method Not Allowed");
        assert_eq!(detail, format!("{method} is not allowed here"));
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    control.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_asks_for_the_token_on_every_route_and_probe_does_not() {
    let registry = Registry::new();
    let config = ControlConfig::new().admin_addr(any_port()).token(TOKEN);
    let control = Control::start(config, registry, Lifecycle::new(), None).unwrap();
    let addr = control.admin_addr().unwrap();
    for (method, path) in [
        ("GET", "/api/v1/holdings"),
        ("GET", "/api/v1/tasks"),
        ("POST", "/api/v1/holdings/sweep"),
        ("POST", "/api/v1/holdings/x/sweep"),
        ("DELETE", "/api/v1/holdings"),
        ("GET", "/nothing"),
    ] {
        for headers in ["", "Authorization: Bearer 0123456789abcdeF\r\n"] {
            let answer = ask(addr, method, path, headers);
            answer.problem(401, "Unauthorized");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            assert_eq!(answer.header("cache-control"), Some("no-store"));
        }
        let right = format!("Authorization: Bearer {TOKEN}\r\n");
        assert_ne!(ask(addr, method, path, &right).status, 401);
    }
    let right = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(ask(addr, "GET", "/api/v1/tasks", &right).status, 200);
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_ne!(get(addr, path).status, 401);
    }
    control.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_sites_get_nothing() {
    let (control, addr) = start(&Registry::new(), &Lifecycle::new(), None);
    let request = |headers: &str| {
        let head = "POST /api/v1/holdings/sweep HTTP/1.1\r\nConnection: close\r\n";
        send(addr, &format!("{head}{headers}\r\n"))
    };
    for (headers, status) in [
        (format!("Host: {addr}\r\n"), 200),
        (format!("Host: {addr}\r\nOrigin: http://{addr}\r\n"), 200),
        ("Host: evil.example\r\n".to_owned(), 403),
        (format!("Host: evil.example:{}\r\n", addr.port()), 403),
        (String::new(), 403),
        (
            format!("Host: {addr}\r\nOrigin: http://evil.example\r\n"),
            403,
        ),
        (format!("Host: {addr}\r\nOrigin: null\r\n"), 403),
        (
            format!("Host: {addr}\r\nSec-Fetch-Site: cross-site\r\n"),
            403,
        ),
    ] {
        let answer = request(&headers);
        assert_eq!(answer.status, status, "{headers:?}");
        if status == 403 {
            answer.problem(403, "Forbidden");
        }
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    let alive = send(
        addr,
        "GET /livez HTTP/1.1\r\nHost: pod.example\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(alive.status, 200, "probes come by whatever name");
    control.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_does_no_harm() {
    let (control, addr) = start(&Registry::new(), &Lifecycle::new(), None);
    let head = "POST /api/v1/holdings/sweep HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    let answer = send(addr, &format!("{head}Content-Length: 5\r\n\r\nhello"));
    assert_eq!(answer.status, 200);
    // Refused by its announcement, before it is sent.
    let answer = send(addr, &format!("{head}Content-Length: 1048576\r\n\r\n"));
    assert_eq!(
        answer.problem(413, "Payload Too Large"),
        "no route takes a body: send none"
    );
    // One that is not announced is not read; the client may be hung up on while it writes.
    let mut stream = TcpStream::connect(addr).unwrap();
    let _ = stream.write_all(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes());
    let _ = stream.write_all(format!("100000\r\n{}\r\n0\r\n\r\n", "x".repeat(1 << 20)).as_bytes());
    drop(stream);
    assert_eq!(get(addr, "/livez").status, 200);
    control.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_html_that_may_do_nothing() {
    let (_control, addr) = start(&Registry::new(), &Lifecycle::new(), None);
    let page = get(addr, "/");
    assert_eq!(page.status, 200);
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(page.header(name), Some(value));
    }
    let policy = page.header("content-security-policy").unwrap();
    let mut rules = policy.split("; ");
    assert_eq!(rules.next(), Some("default-src 'none'"));
    let style = rules.next().unwrap();
    assert!(style.starts_with("style-src 'sha256-"), "{policy}");
    let rest = [
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ];
    assert_eq!(rules.collect::<Vec<_>>(), rest);
    assert!(page.body.starts_with("<!DOCTYPE html>\n"), "{}", page.body);
    assert!(page.body.ends_with("</html>\n"));
    assert!(page.body.contains("the service has no memory monitor"));
    assert!(page.body.contains("<a href=\"readyz\">"));
    assert!(page.body.contains("metrics: not on this listener"));

    let head = ask(addr, "HEAD", "/", "");
    assert_eq!((head.status, &*head.body), (200, ""));
    let refused = ask(addr, "POST", "/", "");
    refused.problem(405, "Method Not Allowed");
    assert_eq!(refused.header("allow"), Some("GET,HEAD"));
    for (query, told) in [
        (
            "refresh=0",
            "`refresh` is \"0\": use off, or a whole number of seconds from 1 to 60",
        ),
        (
            "reload=5",
            "`reload` is \"5\": there is no such parameter, use refresh",
        ),
        (
            "refresh=5&refresh=6",
            "`refresh` is \"6\": it is given twice, once will do",
        ),
        (
            &format!("{}=5", "é".repeat(1_000)),
            &format!(
                "`{}…` is \"5\": there is no such parameter, use refresh",
                "é".repeat(100)
            ),
        ),
    ] {
        assert_eq!(
            get(addr, &format!("/?{query}")).problem(400, "Bad Request"),
            told
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_guarded_as_the_api_is() {
    let config = ControlConfig::new().admin_addr(any_port()).token(TOKEN);
    let config = config.probe_addr(([0, 0, 0, 0], 0).into());
    let registry = Registry::new();
    let control = Control::start(config, registry.clone(), Lifecycle::new(), None).unwrap();
    let addr = control.admin_addr().unwrap();
    get(addr, "/").problem(401, "Unauthorized");
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let page = ask(addr, "GET", "/", &bearer);
    assert_eq!(page.status, 200);
    assert!(!page.body.contains("readyz"), "it is on another listener");
    let probe = ([127, 0, 0, 1], control.probe_addr().unwrap().port()).into();
    get(probe, "/").problem(404, "Not Found");

    let (_control, open) = start(&registry, &Lifecycle::new(), None);
    let rebound = "GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    send(open, rebound).problem(403, "Forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_the_holdings_that_hold_most_and_counts_all() {
    let registry = Registry::new();
    let (_control, addr) = start(&registry, &Lifecycle::new(), None);
    let holdings = (1..=12).map(|number| {
        let holding = FakeHolding::new(&format!("<script>{number}"), HOUR);
        let holding = registry.register(holding).unwrap();
        holding.insert(number);
        holding
    });
    let _holdings: Vec<_> = holdings.collect();
    let _panicking = registry.register(Odd::panicking("panicking")).unwrap();
    let page = get(addr, "/").body;
    assert!(page.contains(" Panicked when asked: 1."), "{page}");
    assert!(page.contains("In all: 78 entries, 7.6 KiB."), "{page}");
    assert!(page.contains("What holds most (10 of 13)"), "{page}");
    assert!(!page.contains("<script"), "{page}");
    let place = |number: u64| page.find(&format!("<bdi>&lt;script&gt;{number}</bdi>"));
    let places: Vec<_> = (3..=12)
        .rev()
        .map(|number| place(number).unwrap())
        .collect();
    assert!(places.is_sorted());
    assert_eq!([1, 2].map(place), [None; 2]);
    assert_eq!(get(addr, "/api/v1/holdings").json()["total"]["entries"], 78);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_there_while_a_holding_hangs() {
    let registry = Registry::new();
    let (_control, addr) = start(&registry, &Lifecycle::new(), None);
    let (hanging, asked) = Odd::hanging("hanging");
    let held = hanging.lock.lock().unwrap();
    let _hanging = registry.register(hanging.clone()).unwrap();
    let page = get(addr, "/");
    asked.recv().unwrap();
    assert_eq!(page.status, 200);
    assert!(
        page.body.contains("A holding does not answer"),
        "{}",
        page.body
    );
    drop(held);
}
