//! What a service was like while it was driven.

use crate::{Error, cgroup::Cgroup, outcome::Outcome, service::LEAK};
use serde::Serialize;
use serde_json::Value;
use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};
use tokio::time::Instant;

const EVERY: Duration = Duration::from_millis(100);
/// *Admin* is asked with every so many samples only.
const ADMIN_EVERY: usize = 3;
/// At most: an hour of samples.
const MOST: usize = 36_000;

const ADMIN_PATH: &str = "/api/v1/memory/stats";
/// The columns that come from *admin*, with the places of the values in the answer.
const ADMIN_COLUMNS: [(&str, &str); 7] = [
    ("tracked", "/process/tracked"),
    ("pressure", "/pressure/value"),
    ("level", "/pressure/level"),
    ("growth", "/admission/growth"),
    ("kept", "/admission/kept"),
    ("running", "/admission/running"),
    ("waiting", "/admission/waiting"),
];
/// The route that leaks.
const LEAKS: &str = "/leak";

/// At one time, in bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Sample {
    /// What the cgroup used.
    pub usage: u64,
    /// What was resident of the service.
    pub resident: u64,
    /// What lived, by its allocator; 0 where nobody counts.
    pub live: u64,
}

/// Samples, ten a second.
#[derive(Clone, Debug, Default)]
pub struct Timeline(Vec<Row>);

#[derive(Clone, Debug)]
struct Row {
    at: Duration,
    sample: Sample,
    /// Empty where nobody says.
    admin: [String; ADMIN_COLUMNS.len()],
    /// The time to the limit of the route that leaks, if it is said to.
    named: Option<Option<f64>>,
}

/// What was said of the route that leaks, when it was named first.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
pub struct Leak {
    /// After how many seconds.
    pub named_after_s: f64,
    /// How long it was said to take until the limit, in seconds.
    pub time_to_limit_s: Option<f64>,
    /// How long it was: what was left above the least that was used in the ten seconds before, at the
    /// rate of the driver.
    pub true_time_to_limit_s: f64,
}

/// What looks at a service.
#[derive(Clone, Debug)]
pub(crate) struct Eye {
    pub(crate) cgroup: Arc<Cgroup>,
    pub(crate) pid: u32,
    pub(crate) live: Arc<AtomicU64>,
    pub(crate) admin: Option<SocketAddr>,
}

/// Looks ten times a second, until it is dropped.
#[derive(Debug)]
pub(crate) struct Sampler {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Timeline>>,
}

impl Timeline {
    /// The largest of something.
    pub fn peak(&self, of: impl Fn(&Sample) -> u64) -> u64 {
        self.0.iter().map(|row| of(&row.sample)).max().unwrap_or(0)
    }

    /// What was resident and did not live, in the mean.
    #[must_use]
    pub fn free(&self) -> u64 {
        let free = |row: &Row| row.sample.resident.saturating_sub(row.sample.live);
        self.0.iter().map(free).sum::<u64>() / self.0.len().max(1) as u64
    }

    pub(crate) fn leak(&self, limit: u64, outcome: &Outcome) -> Option<Leak> {
        let first = self.0.iter().position(|row| row.named.is_some())?;
        let row = &self.0[first];
        let before = &self.0[first.saturating_sub(100)..=first];
        let least = before.iter().map(|row| row.sample.usage).min()?;
        let rate = outcome.of("leak").ok as f64 * LEAK as f64 / outcome.seconds;
        Some(Leak {
            named_after_s: row.at.as_secs_f64() - outcome.before_s,
            time_to_limit_s: row.named.flatten(),
            true_time_to_limit_s: limit.saturating_sub(least) as f64 / rate,
        })
    }

    /// A line for each sample.
    #[must_use]
    pub fn to_csv(&self) -> String {
        let names = ADMIN_COLUMNS.map(|(name, _)| name).join(",");
        let mut text = format!("seconds,usage,resident,live,{names}\n");
        for Row {
            at, sample, admin, ..
        } in &self.0
        {
            let (at, admin) = (at.as_secs_f64(), admin.join(","));
            let Sample {
                usage,
                resident,
                live,
            } = sample;
            let _ = writeln!(text, "{at:.2},{usage},{resident},{live},{admin}");
        }
        text
    }

    /// A table in Markdown with a row for each second: the largest of each sample, the last that *admin*
    /// has said, and what the driver has counted.
    #[must_use]
    pub fn to_table(&self, outcome: &Outcome) -> String {
        let names = ADMIN_COLUMNS.map(|(name, _)| name).join(" | ");
        let mut text = format!(
            "| second | used MB | resident MB | live MB | {names} | cheap/s | heavy MB/s | refused/s |\n\
             |--:|--:|--:|--:|{}--:|--:|--:|\n",
            "--:|".repeat(ADMIN_COLUMNS.len())
        );
        let second = |row: &Row| row.at.as_secs_f64() - outcome.before_s;
        for rows in self
            .0
            .chunk_by(|one, other| second(one).floor() == second(other).floor())
        {
            let number = second(&rows[0]).floor();
            let most = |of: fn(&Sample) -> u64| {
                let most = rows.iter().map(|row| of(&row.sample)).max();
                most.unwrap_or(0) >> 20
            };
            let admin = rows.last().map(|row| row.admin.join(" | "));
            let counted = (number >= 0.0).then(|| outcome.by_second.get(number as usize));
            let [cheap, heavy, refused] = counted.flatten().copied().unwrap_or_default();
            let _ = writeln!(
                text,
                "| {number} | {} | {} | {} | {} | {cheap} | {heavy} | {refused} |",
                most(|sample| sample.usage),
                most(|sample| sample.resident),
                most(|sample| sample.live),
                admin.unwrap_or_default()
            );
        }
        text
    }
}

impl Eye {
    pub(crate) fn sample(&self) -> Sample {
        Sample {
            usage: self.cgroup.usage().unwrap_or(0),
            resident: resident(self.pid).unwrap_or(0),
            live: self.live.load(Relaxed),
        }
    }

    fn ask_admin(&self) -> Option<Value> {
        ask(self.admin?, ADMIN_PATH).ok()
    }
}

impl Sampler {
    pub(crate) fn start(eye: Eye) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = stop.clone();
            move || look(&eye, &stop)
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    pub(crate) fn stop(mut self) -> Timeline {
        self.join()
    }

    fn join(&mut self) -> Timeline {
        self.stop.store(true, Relaxed);
        let timeline = self.thread.take().map(JoinHandle::join);
        timeline.and_then(Result::ok).unwrap_or_default()
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.join();
    }
}

fn look(eye: &Eye, stop: &AtomicBool) -> Timeline {
    let begin = Instant::now();
    let mut rows = Vec::new();
    let (mut admin, mut named) = (<[String; ADMIN_COLUMNS.len()]>::default(), None);
    let mut next = begin;
    while !stop.load(Relaxed) && rows.len() < MOST {
        let (now, sample) = (Instant::now(), eye.sample());
        if rows.len() % ADMIN_EVERY == 0
            && let Some(answer) = eye.ask_admin()
        {
            admin = ADMIN_COLUMNS.map(|(_, place)| text(answer.pointer(place)));
            named = find_leak(&answer);
        }
        rows.push(Row {
            at: now.saturating_duration_since(begin),
            sample,
            admin: admin.clone(),
            named,
        });
        next = (next + EVERY).max(Instant::now());
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Timeline(rows)
}

fn text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    }
}

/// The time to limit of the route that leaks, wherever it is named as such.
fn find_leak(value: &Value) -> Option<Option<f64>> {
    match value {
        Value::Array(values) => values.iter().find_map(find_leak),
        Value::Object(fields) => {
            let time = fields.get("time_to_limit_s");
            match (time, fields.get("name").and_then(Value::as_str)) {
                (Some(time), Some(LEAKS)) => Some(time.as_f64()),
                _ => fields.values().find_map(find_leak),
            }
        }
        _ => None,
    }
}

/// What *admin* answers with.
fn ask(addr: SocketAddr, path: &str) -> Result<Value, Error> {
    let limit = Duration::from_millis(500);
    let mut stream = TcpStream::connect_timeout(&addr, limit)?;
    stream.set_read_timeout(Some(limit))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.take(1 << 20).read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or("no head")?;
    match head.starts_with("HTTP/1.1 200") {
        true => Ok(serde_json::from_str(body)?),
        false => Err(head.to_owned().into()),
    }
}

fn resident(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = kib.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What is said of the pressure and of nothing else.
    fn admin(tenth: u64) -> [String; ADMIN_COLUMNS.len()] {
        let mut said = [const { String::new() }; ADMIN_COLUMNS.len()];
        said[1] = format!("0.{tenth}");
        said[2] = "fine".to_owned();
        said
    }

    fn timeline() -> Timeline {
        let row = |tenth: u64| Row {
            at: Duration::from_millis(tenth * 100),
            sample: Sample {
                usage: (200 + tenth % 10) << 20,
                resident: 210 << 20,
                live: 110 << 20,
            },
            admin: admin(tenth),
            named: (tenth >= 15).then_some(Some(1_800.0)),
        };
        Timeline((0..30).map(row).collect())
    }

    #[test]
    fn what_is_said_of_a_leak_is_compared_to_what_leaks() {
        let mut outcome = Outcome {
            seconds: 10.0,
            before_s: 0.5,
            ..Outcome::default()
        };
        outcome.kinds.entry("leak".to_owned()).or_default().ok = 200;
        let leak = timeline().leak(400 << 20, &outcome).unwrap();
        assert_eq!(leak.named_after_s, 1.0);
        assert_eq!(leak.time_to_limit_s, Some(1_800.0));
        assert_eq!(leak.true_time_to_limit_s, 1_024.0);
    }

    #[test]
    fn a_leak_is_found_by_its_name_where_it_has_a_time() {
        let other =
            json!({ "routes": [{ "name": "/leak" }, { "name": "/a", "time_to_limit_s": 1 }] });
        assert_eq!(find_leak(&other), None);
        let named = json!({ "leaks": [other, { "name": "/leak", "time_to_limit_s": 2.5 }] });
        assert_eq!(find_leak(&named), Some(Some(2.5)));
    }

    #[test]
    fn a_table_has_a_row_for_each_second() {
        let outcome = Outcome {
            by_second: vec![[1, 2, 3], [4, 5, 6]],
            ..Outcome::default()
        };
        let table = timeline().to_table(&outcome);
        let rows: Vec<_> = table.lines().skip(2).collect();
        assert_eq!(rows.len(), 3);
        assert_eq!(
            rows[1],
            "| 1 | 209 | 210 | 110 |  | 0.19 | fine |  |  |  |  | 4 | 5 | 6 |"
        );
    }

    #[test]
    fn free_memory_is_resident_and_does_not_live() {
        assert_eq!(timeline().free(), 100 << 20);
        assert_eq!(timeline().peak(|sample| sample.usage), 209 << 20);
    }
}
