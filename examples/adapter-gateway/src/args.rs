//! The command line.

use clap::Parser;
use plimsoll::settings::Value;
use std::{net::SocketAddr, path::PathBuf, time::Duration};

const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config");
const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/adapter-gateway");

const LONGEST: Duration = Duration::from_secs(60 * 60);
const LONGEST_DELAY: Duration = Duration::from_secs(20);

/// Answers questions about a folder of markdown through several adapters at once.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Args {
    /// Where to serve questions; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,

    /// Folder with config.yaml and adapters.yaml, which are read again when they change.
    #[arg(long, value_name = "DIR", default_value = CONFIG)]
    pub config: PathBuf,

    /// Print every setting with where it comes from, and stop.
    #[arg(long)]
    pub print_config: bool,

    /// Where to serve the administration pages; port 0 takes a free one. As the variable
    /// `PLIMSOLL__CONTROL__ADMIN_ADDR`, whatever that and config.yaml say.
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<SocketAddr>,

    /// Folder whose README.md and docs/**/*.md are searched.
    #[arg(long, value_name = "DIR", default_value = WORKSPACE)]
    pub docs: PathBuf,

    /// Folder for the search database, created if absent.
    #[arg(long, value_name = "DIR", default_value = DATA)]
    pub data: PathBuf,

    /// How long to go on serving after a SIGTERM, so that load balancers look elsewhere first. As
    /// the variable `PLIMSOLL__LIFECYCLE__DRAIN_DELAY`, whatever that and config.yaml say.
    #[arg(long, value_name = "DURATION", value_parser = parse_delay)]
    pub drain_delay: Option<Duration>,

    /// How long the adapters may take together to answer a question.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub deadline: Duration,

    /// How long demo-flaky works, and then fails, in turn while the load runs; 0 leaves it alone.
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = parse_period)]
    pub flip: Duration,

    /// Ask questions of itself for this long, then stop (30s, 500ms, 2m, or plain seconds).
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub load: Option<Duration>,

    /// Change the adapters this often while the load runs, in a copy of the configuration: their
    /// limits, which there are, and now and then a file that cannot be used.
    #[arg(long, value_name = "DURATION", requires = "load", value_parser = parse_duration)]
    pub reload_every: Option<Duration>,
}

impl Args {
    /// What is given here instead of in the configuration, as the variables that would say so.
    #[must_use]
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        // Nobody else sends requests while the service loads itself.
        let drain_delay = self.load.map(|_| Duration::ZERO).or(self.drain_delay);
        let drain_delay = drain_delay.map(|delay| Value::Duration(delay).to_string());
        let admin = self.admin.map(|addr| addr.to_string());
        [
            ("PLIMSOLL__CONTROL__ADMIN_ADDR", admin),
            ("PLIMSOLL__LIFECYCLE__DRAIN_DELAY", drain_delay),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }
}

/// Parses `500ms`, `30s`, `2m`, `1h`, or plain seconds, more than 0 and up to one hour.
///
/// # Errors
///
/// Says what was expected, for anything else.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = parse(text)?;
    if duration.is_zero() || LONGEST < duration {
        return Err("out of range; use more than 0 and at most 1h".into());
    }
    Ok(duration)
}

/// Parses a duration that may be 0, up to one hour.
fn parse_period(text: &str) -> Result<Duration, String> {
    let period = parse(text)?;
    if LONGEST < period {
        return Err("out of range; use at most 1h".into());
    }
    Ok(period)
}

/// Parses a duration that may be 0, and has to leave some of the time a stop may take.
fn parse_delay(text: &str) -> Result<Duration, String> {
    let delay = parse(text)?;
    if LONGEST_DELAY < delay {
        return Err("out of range; use at most 20s".into());
    }
    Ok(delay)
}

fn parse(text: &str) -> Result<Duration, String> {
    let (digits, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let millis_per_unit = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    Ok(digits
        .parse::<u64>()
        .ok()
        .zip(millis_per_unit)
        .map(|(count, millis)| Duration::from_millis(count.saturating_mul(millis)))
        .ok_or("not a duration; write for example 30s, 500ms, 2m, or 30 for seconds")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn durations_are_read_with_and_without_a_unit() {
        for (text, millis) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("30", 30_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("3600", 3_600_000),
        ] {
            let expected = Duration::from_millis(millis);
            assert_eq!(parse_duration(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_an_example() {
        for text in [
            "",
            "s",
            "-1",
            "+5s",
            "1.5s",
            "5 s",
            "5S",
            "5d",
            "5s ",
            "٣s",
            "99999999999999999999s",
        ] {
            let error = parse_duration(text).unwrap_err();
            assert!(error.contains("30s"), "{text}: {error}");
        }
    }

    #[test]
    fn durations_out_of_range_are_refused_with_the_range() {
        for text in ["0", "0ms", "3601", "61m", "18446744073709551615h"] {
            let error = parse_duration(text).unwrap_err();
            assert!(error.contains("at most 1h"), "{text}: {error}");
        }
    }

    #[test]
    fn a_delay_may_be_zero_and_has_its_own_end() {
        assert_eq!(parse_delay("0"), Ok(Duration::ZERO));
        assert_eq!(parse_delay("20s"), Ok(LONGEST_DELAY));
        assert!(parse_delay("21s").unwrap_err().contains("at most 20s"));
    }

    #[test]
    fn a_period_may_be_zero_and_is_an_hour_at_most() {
        assert_eq!(parse_period("0"), Ok(Duration::ZERO));
        assert_eq!(parse_period("1h"), Ok(LONGEST));
        assert!(parse_period("3601").unwrap_err().contains("at most 1h"));
    }

    #[test]
    fn command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
