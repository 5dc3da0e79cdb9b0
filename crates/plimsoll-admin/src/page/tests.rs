use super::*;
use crate::page::{
    chart::{Past, tests::past},
    facts::{BreakerFacts, Holders, LineFacts, Links, ROWS, Route, Top},
};
use plimsoll_breaker::State as Circuit;
use plimsoll_core::{Name, Phase, Registry, test_util::FakeHolding};
use plimsoll_memory::{
    MonitorConfig, PressureLevel,
    admission::AdmissionStats,
    history::Resolution,
    monitor::{Monitor, Signals},
    verdict::{LeakConfig, LeakDetector, LeakKind, Verdict},
};
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// The longest page, as the documentation says.
const MAX_BYTES: usize = 96 * 1024;

const HOUR: Duration = Duration::from_secs(3_600);
const HOSTILE: &str = "</td><script>alert('1')</script>";

/// Of a service that has nothing to be shown.
fn nothing() -> Facts {
    Facts {
        now: Instant::now(),
        wall: SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_225_599_001),
        phase: Phase::Starting,
        unready: Some("starting"),
        tasks: 0,
        breakers: Some(BreakerFacts::default()),
        line: None,
        holders: Some(Holders::of(&Registry::new(), None)),
        links: Links::default(),
    }
}

/// What leaks a megabyte a second under each name.
fn leaks(names: &[Name]) -> Vec<Verdict> {
    let mut leaks = LeakDetector::new(&LeakConfig::new());
    let began = Instant::now();
    let after = |seconds| began + Duration::from_secs(seconds);
    for second in 0..50 {
        for name in names {
            let held = second * 1_000_000;
            leaks.observe(after(second), LeakKind::Route, *name, held, None);
        }
    }
    leaks.judge(after(50), Some(1 << 30)).standing
}

/// Where `limit` bytes may be used, and `used` are.
fn line(state: &str, used: u64, limit: u64, leaks: Vec<Verdict>) -> LineFacts {
    let mut signals = Signals::default();
    (signals.used, signals.limit) = (Some(used), Some(limit));
    (signals.tracked, signals.resident) = (Some(used / 2), Some(used));
    signals.kept_blocks = Some(used / 4);
    let now = Instant::now();
    let step = Monitor::new(MonitorConfig::new(), now).step(now, &signals);
    LineFacts {
        state: state.to_owned(),
        is_shedding: false,
        figures: step.figures,
        past: [Resolution::Second, Resolution::HalfMinute]
            .map(|resolution| past(resolution, 0, [(0, Some(used), Some(limit))])),
        mode: "enforce".to_owned(),
        admission: AdmissionStats::default(),
        leaks: Top::first(leaks),
    }
}

/// A chart as long as it can be: everything changes all the time.
fn restless(resolution: Resolution) -> Past {
    let width = resolution.width().as_secs();
    let columns = resolution.points() as u64;
    let points = (0..columns).map(|column| {
        let share = match column {
            0 => 100,
            _ => 8 + 4 * (column % 2),
        };
        let bytes = share * (1 << 30);
        (column * width, Some(bytes), Some(bytes))
    });
    past(resolution, (columns - 1) * width, points)
}

/// So many names as long as names can be, and longer once they are escaped.
fn long_names(of: &str) -> Vec<Name> {
    let names = (10..10 + 2 * ROWS).map(|number| {
        let name = format!("{of}{number}{}", "\"".repeat(Name::MAX_LEN));
        Name::new(&name)
    });
    names.collect()
}

/// The elements that are open at its end, which should be none.
fn unclosed(html: &str) -> Vec<&str> {
    let mut open = Vec::new();
    // The style has no tags.
    for tag in html.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').expect("a tag ends");
        let name = tag.split(' ').next().unwrap();
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "in {html}"),
            None if tag.ends_with('/') || ["!DOCTYPE", "meta"].contains(&name) => {}
            None => open.push(name),
        }
    }
    open
}

#[test]
fn a_service_that_has_nothing_says_so() {
    let html = render(&nothing(), Refresh::Every(5));
    assert_eq!(unclosed(&html), [""; 0]);
    for said in [
        "<title>not ready: starting – Plimsoll</title>",
        "<p class=\"state warning\">not ready: starting; the service has no memory monitor</p>",
        "2025-12-31 23:59:59 UTC. Read again every 5 s.",
        "Not ready: starting. Phase: starting. Named tasks: 0.",
        "No circuit breaker.",
        "No holding is registered.",
        "The service has no edge to be shown.",
        "metrics: not on this listener",
    ] {
        assert!(html.contains(said), "{said}: {html}");
    }
    for linked in ["memory/stats", "memory/requests", "v1/config", "readyz"] {
        assert!(!html.contains(linked), "{linked}: {html}");
    }
}

#[test]
fn who_does_not_answer_is_told_of_and_the_rest_is_shown() {
    let facts = Facts {
        unready: None,
        breakers: None,
        holders: None,
        line: Some(line("at ease", 1 << 20, 1 << 30, Vec::new())),
        ..nothing()
    };
    let html = render(&facts, Refresh::Off);
    assert_eq!(unclosed(&html), [""; 0]);
    for said in [
        "A circuit breaker does not answer.",
        "A holding does not answer",
        "<title>at ease – Plimsoll</title>",
        "<p class=\"state normal\">at ease</p>",
        "Nothing is seen to leak.",
    ] {
        assert!(html.contains(said), "{said}: {html}");
    }
}

#[tokio::test]
async fn names_from_outside_are_text_wherever_they_stand() {
    let hostile = Name::from_static(HOSTILE);
    let registry = Registry::new();
    let _holding = registry.register(FakeHolding::new(HOSTILE, HOUR)).unwrap();
    let facts = Facts {
        breakers: Some(BreakerFacts::of([(hostile, Circuit::Open)])),
        line: Some(line(HOSTILE, 1, 2, leaks(&[hostile]))),
        holders: Some(Holders::of(&registry, Some(vec![Route::new(hostile)]))),
        ..nothing()
    };
    let html = render(&facts, Refresh::Every(5));
    assert!(!html.contains("<script"), "{html}");
    assert_eq!(unclosed(&html), [""; 0]);
    let escaped = "&lt;/td&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;";
    let places = html.matches(escaped).count();
    assert_eq!(
        places, 6,
        "the title, the sentence, a breaker, a leak, a holding, a route"
    );
}

#[test]
fn what_an_operator_should_look_at_has_a_colour_of_its_own() {
    let calm = || line("", 1 << 20, 1 << 30, Vec::new());
    let at = |level| {
        let mut line = calm();
        line.figures.level = level;
        line
    };
    let shedding = LineFacts {
        is_shedding: true,
        ..calm()
    };
    let leaking = line("", 1 << 20, 1 << 30, leaks(&[Name::from_static("/leak")]));
    let state = |unready, line| {
        let facts = Facts {
            unready,
            line,
            ..nothing()
        };
        let html = render(&facts, Refresh::Off);
        let (_, class) = html.split_once("<p class=\"state").unwrap();
        class.split_once('"').unwrap().0.to_owned()
    };
    assert_eq!(state(None, None), "");
    assert_eq!(state(None, Some(calm())), " normal");
    assert_eq!(state(Some("draining"), Some(calm())), " warning");
    for line in [
        shedding,
        leaking,
        at(PressureLevel::Elevated),
        at(PressureLevel::High),
    ] {
        assert_eq!(state(None, Some(line)), " warning");
    }
    let over = at(PressureLevel::Critical);
    assert_eq!(state(Some("draining"), Some(over)), " critical");
    assert_eq!(state(None, Some(at(PressureLevel::Unknown))), "");
}

#[tokio::test]
async fn the_longest_page_is_as_long_as_it_is_said_to_be() {
    let registry = Registry::new();
    let holdings: Vec<_> = long_names("h")
        .iter()
        .map(|name| {
            registry
                .register(FakeHolding::new(name.as_str(), HOUR))
                .unwrap()
        })
        .collect();
    holdings.iter().for_each(|holding| holding.insert(1));
    let routes = long_names("r").into_iter().map(|name| Route {
        requests: u64::MAX,
        in_flight: usize::MAX,
        live: Some(u64::MAX),
        retained: Some(u64::MAX),
        expected: Some(u64::MAX),
        over_budget: u64::MAX,
        refused: u64::MAX,
        ..Route::new(name)
    });
    let sentence = "\"".repeat(1 << 20);
    let mut line = line(&sentence, u64::MAX, u64::MAX / 2, leaks(&long_names("l")));
    assert!(line.leaks.of > ROWS, "{}", line.leaks.of);
    line.past = [Resolution::Second, Resolution::HalfMinute].map(restless);
    line.admission.queue_full = u64::MAX;
    line.admission.admitted = u64::MAX;
    line.admission.held = u64::MAX;
    let breakers = long_names("b").into_iter();
    let facts = Facts {
        tasks: usize::MAX,
        breakers: Some(BreakerFacts::of(
            breakers.map(|name| (name, Circuit::ForcedOpen)),
        )),
        line: Some(line),
        holders: Some(Holders::of(&registry, Some(routes.collect()))),
        links: Links {
            has_probe: true,
            has_metrics: true,
            has_monitor: true,
            has_edge: true,
            has_configuration: true,
        },
        ..nothing()
    };
    let html = render(&facts, Refresh::Every(60));
    assert_eq!(unclosed(&html), [""; 0]);
    let shown = |of: &str| html.matches(&format!("<bdi>{of}")).count();
    assert_eq!(["h", "r", "l", "b"].map(shown), [ROWS; 4]);
    assert!(html.contains("(10 of 20)"));
    assert!(html.contains("And 10 more."));
    // Nine reasons to remove and what is added to the page one day have room.
    let room = MAX_BYTES - MAX_BYTES / 8;
    assert!((room / 2..room).contains(&html.len()), "{}", html.len());
}

#[test]
fn the_page_is_read_again_as_often_as_is_asked_for() {
    let parse = |query: &str| Refresh::parse(&format!("/{query}").parse().unwrap());
    for (query, every) in [
        ("", Refresh::Every(5)),
        ("?", Refresh::Every(5)),
        ("?refresh=1", Refresh::Every(1)),
        ("?refresh=60", Refresh::Every(60)),
        ("?refresh=off", Refresh::Off),
    ] {
        assert_eq!(parse(query).unwrap(), every, "{query}");
        let html = render(&nothing(), every);
        let tag = match every {
            Refresh::Off => None,
            Refresh::Every(seconds) => Some(format!(
                "<meta http-equiv=\"refresh\" content=\"{seconds}\">"
            )),
        };
        assert_eq!(html.contains("http-equiv"), tag.is_some());
        assert!(tag.is_none_or(|tag| html.contains(&tag)), "{html}");
    }
    for wrong in [
        "0",
        "61",
        "",
        "-1",
        "+5",
        "5s",
        "OFF",
        "99999999999999999999",
    ] {
        assert!(parse(&format!("?refresh={wrong}")).is_err(), "{wrong}");
    }
}

#[test]
fn the_policy_lets_the_style_in_and_nothing_else_in_the_page_needs_to_be() {
    let digest = base64(&sha256(STYLE.as_bytes()));
    let expected = format!("style-src 'sha256-{digest}'");
    assert!(POLICY.contains(&expected), "the style needs {expected}");
    let facts = Facts {
        line: Some(line("at ease", 1 << 20, 1 << 30, Vec::new())),
        ..nothing()
    };
    let html = render(&facts, Refresh::Every(5));
    assert_eq!(html.matches("<style>").count(), 1);
    for needs in [
        "style=", "<script", "<img", "<link", "src=", "url(", "@import",
    ] {
        assert!(!html.contains(needs), "{needs}");
    }
}

#[test]
fn digests_are_those_of_the_standard() {
    let abc = sha256(b"abc").map(|byte| format!("{byte:02x}")).concat();
    let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(abc, known);
    // The padding has a block of its own.
    let long = sha256(b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq");
    let known = "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1";
    assert_eq!(long.map(|byte| format!("{byte:02x}")).concat(), known);
    assert_eq!(base64(b"Man"), "TWFu");
    assert_eq!(base64(b"Ma"), "TWE=");
}

/// FIPS 180-4. For one digest in a test, no crate is worth depending on.
fn sha256(text: &[u8]) -> [u8; 32] {
    let primes = || (2..).filter(|n| (2..*n).all(|divisor| n % divisor != 0));
    // The first 32 bits of what is behind the point.
    let fraction = |root: f64| (root.fract() * 4_294_967_296.0) as u32;
    let mut state = [0; 8];
    for (word, prime) in state.iter_mut().zip(primes()) {
        *word = fraction(f64::from(prime).sqrt());
    }
    let constants: Vec<_> = primes()
        .take(64)
        .map(|prime| fraction(f64::from(prime).cbrt()))
        .collect();

    let mut padded = text.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend((text.len() as u64 * 8).to_be_bytes());
    for block in padded.chunks_exact(64) {
        let words = block.chunks_exact(4);
        let mut words: Vec<_> = words
            .map(|word| u32::from_be_bytes(word.try_into().unwrap()))
            .collect();
        for place in 16..64 {
            let (early, late) = (words[place - 15], words[place - 2]);
            let early = early.rotate_right(7) ^ early.rotate_right(18) ^ (early >> 3);
            let late = late.rotate_right(17) ^ late.rotate_right(19) ^ (late >> 10);
            let sum = words[place - 16].wrapping_add(words[place - 7]);
            words.push(sum.wrapping_add(early).wrapping_add(late));
        }
        let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = state;
        for (word, constant) in words.iter().zip(&constants) {
            let mixed = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
            let chosen = (e & f) ^ (!e & g);
            let first = [mixed, chosen, *constant, *word]
                .into_iter()
                .fold(h, u32::wrapping_add);
            let mixed = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
            let most = (a & b) ^ (a & c) ^ (b & c);
            (h, g, f, e) = (g, f, e, d.wrapping_add(first));
            (d, c, b) = (c, b, a);
            a = first.wrapping_add(mixed).wrapping_add(most);
        }
        for (word, more) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
            *word = word.wrapping_add(more);
        }
    }
    let mut digest = [0; 32];
    for (bytes, word) in digest.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    digest
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let byte = |place: usize| u32::from(three.get(place).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 63;
            text.push(match digit <= three.len() {
                true => char::from(DIGITS[value as usize]),
                false => '=',
            });
        }
    }
    text
}
