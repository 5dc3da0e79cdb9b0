use super::*;

const TOKEN: &str = "0123456789abcdef";

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        headers.append(HeaderName::from_static(name), value);
    }
    headers
}

fn open() -> Guard {
    let parse = |host| Authority::parse(host).unwrap();
    Guard {
        token: None,
        hosts: vec![parse("ops.internal"), parse("[fd00::1]:8081")],
        origins: vec![Origin::parse("https://ops.internal").unwrap()],
    }
}

fn locked() -> Guard {
    Guard {
        token: Some(TOKEN.to_owned()),
        ..open()
    }
}

fn get(guard: &Guard, pairs: &[(&'static str, &str)]) -> Result<(), Refusal> {
    guard.check(&Method::GET, &Uri::from_static("/"), &headers(pairs))
}

#[test]
fn pages_of_other_sites_may_ask_for_little_and_have_nothing_done() {
    let headers = headers(&[("host", "localhost"), ("sec-fetch-site", "cross-site")]);
    for (method, path, allowed) in [
        (Method::GET, "/api/v1/tasks", true),
        (Method::HEAD, "/", true),
        (Method::POST, "/api/v1/tasks", false),
        // It takes long, and is the largest answer there is.
        (Method::GET, "/debug/pprof/heap", false),
        (Method::HEAD, "/debug/pprof/heap", false),
    ] {
        let checked = open().check(&method, &Uri::from_static(path), &headers);
        let want = if allowed {
            Ok(())
        } else {
            Err(Refusal::CrossSite)
        };
        assert_eq!(checked, want, "{method} {path}");
    }
}

#[test]
fn only_hosts_that_no_dns_server_decides_are_let_in_without_a_token() {
    let table = [
        ("127.0.0.1", true),
        ("127.0.0.1:8081", true),
        ("127.1.2.3:1", true),
        ("localhost", true),
        ("LocalHost:8081", true),
        ("[::1]", true),
        ("[::1]:8081", true),
        ("[0:0:0:0:0:0:0:1]:8081", true),
        ("[::ffff:127.0.0.1]:8081", true),
        ("ops.internal", true),
        ("OPS.internal:9", true),
        ("[fd00::1]:8081", true),
        // Rebound names, and names that look like what they are not.
        ("evil.example", false),
        ("evil.example:8081", false),
        ("127.0.0.1.evil.example", false),
        ("127.0.0.1.nip.io:8081", false),
        ("localhost.evil.example", false),
        ("evil.localhost", false),
        ("evilops.internal", false),
        ("ops.internal.evil.example", false),
        ("localhost.", false),
        ("localhost.:8081", false),
        ("127.0.0.1.", false),
        // User information.
        ("localhost@evil.example", false),
        ("localhost:8081@evil.example", false),
        ("evil.example@localhost", false),
        // Other ways to write an address.
        ("127.1", false),
        ("2130706433", false),
        ("0x7f.0.0.1", false),
        ("0177.0.0.1", false),
        ("0.0.0.0", false),
        ("0.0.0.0:8081", false),
        ("10.0.0.1", false),
        ("::1", false),
        ("[::]", false),
        ("[::1", false),
        ("[::1]8081", false),
        ("[::1%25lo]:8081", false),
        ("[127.0.0.1]", false),
        ("[fd00::1]", false),
        ("[fd00::1]:80", false),
        // Ports that are none.
        ("localhost:", false),
        ("localhost:x", false),
        ("localhost:+80", false),
        ("localhost:65536", false),
        ("localhost:80:80", false),
        ("localhost:-1", false),
        // Lists, blanks and paths.
        ("", false),
        (" ", false),
        ("localhost, evil.example", false),
        ("localhost evil.example", false),
        ("localhost/evil.example", false),
        ("http://localhost", false),
        ("lоcalhost", false),
    ];
    for (host, allowed) in table {
        let want = if allowed { Ok(()) } else { Err(Refusal::Host) };
        assert_eq!(get(&open(), &[("host", host)]), want, "{host:?}");
    }
}

#[test]
fn a_host_that_is_missing_or_ambiguous_is_not_let_in() {
    assert_eq!(get(&open(), &[]), Err(Refusal::Host));
    let twice = [("host", "localhost"), ("host", "localhost")];
    assert_eq!(get(&open(), &twice), Err(Refusal::Host));

    let absolute =
        |uri, pairs: &[_]| open().check(&Method::GET, &Uri::from_static(uri), &headers(pairs));
    assert_eq!(absolute("http://localhost:1/", &[]), Ok(()));
    assert_eq!(
        absolute("http://localhost:1/", &[("host", "localhost:1")]),
        Ok(())
    );
    for (uri, host) in [
        ("http://localhost/", "evil.example"),
        ("http://evil.example/", "localhost"),
        ("http://evil.example/", "evil.example"),
        ("http://localhost@evil.example/", "localhost"),
    ] {
        assert_eq!(
            absolute(uri, &[("host", host)]),
            Err(Refusal::Host),
            "{uri} {host}"
        );
    }
}

#[test]
fn only_the_listeners_own_origin_and_allowed_ones_are_let_in() {
    let table = [
        ("localhost:8081", "http://localhost:8081", true),
        ("localhost:8081", "HTTP://LOCALHOST:8081", true),
        ("127.0.0.1:8081", "http://127.0.0.1:8081", true),
        ("[::1]:8081", "http://[::1]:8081", true),
        ("localhost", "http://localhost", true),
        ("localhost:80", "http://localhost", true),
        ("localhost:8081", "https://ops.internal", true),
        ("localhost:8081", "https://ops.internal:443", true),
        ("localhost:8081", "null", false),
        ("localhost:8081", "", false),
        ("localhost:8081", "*", false),
        ("localhost:8081", "localhost:8081", false),
        ("localhost:8081", "http://localhost", false),
        ("localhost:8081", "http://localhost:8082", false),
        ("localhost:8081", "https://localhost:8081", false),
        ("localhost:8081", "http://127.0.0.1:8081", false),
        ("localhost:8081", "http://localhost.:8081", false),
        ("localhost:8081", "http://evil.example", false),
        (
            "localhost:8081",
            "http://localhost:8081.evil.example",
            false,
        ),
        (
            "localhost:8081",
            "http://localhost:8081@evil.example",
            false,
        ),
        (
            "localhost:8081",
            "http://evil.example@localhost:8081",
            false,
        ),
        ("localhost:8081", "http://localhost:8081/", false),
        (
            "localhost:8081",
            "http://localhost:8081 http://evil.example",
            false,
        ),
        ("localhost:8081", "http://ops.internal", false),
        ("localhost:8081", "https://ops.internal:8443", false),
        ("localhost:8081", "https://evil.ops.internal", false),
        ("localhost:8081", "https://ops.internal.evil.example", false),
        ("localhost:8081", "file://", false),
        ("localhost:8081", "chrome-extension://abcdef", false),
    ];
    for (host, origin, allowed) in table {
        let want = if allowed {
            Ok(())
        } else {
            Err(Refusal::Origin)
        };
        let pairs = [("host", host), ("origin", origin)];
        assert_eq!(get(&open(), &pairs), want, "{origin:?} at {host}");
        let authorization = format!("Bearer {TOKEN}");
        let pairs = [pairs[0], pairs[1], ("authorization", &authorization)];
        assert_eq!(
            get(&locked(), &pairs),
            want,
            "{origin:?} at {host}, with a token"
        );
    }
    let twice = [
        ("host", "localhost"),
        ("origin", "http://localhost"),
        ("origin", "http://evil.example"),
    ];
    assert_eq!(get(&open(), &twice), Err(Refusal::Origin));
}

#[test]
fn pages_of_other_sites_may_not_change_anything() {
    for (method, site, want) in [
        (Method::POST, "cross-site", Err(Refusal::CrossSite)),
        (Method::PUT, "cross-site", Err(Refusal::CrossSite)),
        (Method::POST, "same-origin", Ok(())),
        (Method::POST, "none", Ok(())),
        (Method::GET, "cross-site", Ok(())),
    ] {
        let pairs = headers(&[("host", "localhost"), ("sec-fetch-site", site)]);
        let got = open().check(&method, &Uri::from_static("/"), &pairs);
        assert_eq!(got, want, "{method} {site}");
    }
}

#[test]
fn pages_of_other_ports_of_this_host_take_no_profiles() {
    for (site, path, want) in [
        ("same-site", "/debug/pprof/heap", Err(Refusal::CrossSite)),
        ("same-origin", "/debug/pprof/heap", Ok(())),
        ("none", "/debug/pprof/heap", Ok(())),
        ("same-site", "/api/v1/tasks", Ok(())),
    ] {
        let pairs = headers(&[("host", "localhost"), ("sec-fetch-site", site)]);
        let got = open().check(&Method::GET, &Uri::from_static(path), &pairs);
        assert_eq!(got, want, "{site} {path}");
    }
}

#[test]
fn a_token_is_asked_for_whatever_the_host() {
    let table = [
        ("Bearer 0123456789abcdef", true),
        ("bearer 0123456789abcdef", true),
        ("BEARER   0123456789abcdef", true),
        ("Bearer 0123456789abcdeF", false),
        ("Bearer 1123456789abcdef", false),
        ("Bearer 0123456789abcde", false),
        ("Bearer 0123456789abcdef0", false),
        ("Bearer 0123456789abcdef ", false),
        ("Bearer ", false),
        ("Bearer", false),
        ("Bearer0123456789abcdef", false),
        ("Basic 0123456789abcdef", false),
        ("0123456789abcdef", false),
        ("", false),
        ("Bearé 0123456789abcdef", false),
    ];
    for (authorization, allowed) in table {
        let want = if allowed { Ok(()) } else { Err(Refusal::Token) };
        for host in ["localhost:8081", "ops.example"] {
            let pairs = [("host", host), ("authorization", authorization)];
            assert_eq!(get(&locked(), &pairs), want, "{authorization:?}");
        }
    }
    assert_eq!(
        get(&locked(), &[("host", "localhost")]),
        Err(Refusal::Token)
    );
    let right = ("authorization", "Bearer 0123456789abcdef");
    assert_eq!(get(&locked(), &[right]), Ok(()));
    assert_eq!(get(&locked(), &[right, right]), Err(Refusal::Token));
}

#[test]
fn a_long_body_is_refused_by_its_announcement() {
    for (length, want) in [
        ("0", Ok(())),
        ("1024", Ok(())),
        ("1025", Err(Refusal::TooLong)),
        ("1048576", Err(Refusal::TooLong)),
    ] {
        let pairs = [("host", "localhost"), ("content-length", length)];
        assert_eq!(get(&open(), &pairs), want, "{length}");
    }
}

#[test]
fn the_token_is_not_shown() {
    assert!(!format!("{:?}", locked()).contains(TOKEN));
}
