//! Pictures of sizes, as SVG without a script.

use super::html::Html;
use plimsoll_memory::{
    history::{HistoryPoint, Resolution},
    show::{Size, Span},
};
use std::time::{Duration, SystemTime};

/// How high a chart is. It is as wide as it has columns.
const HEIGHT: u64 = 120;
/// How wide a bar is.
const WIDTH: u64 = 1_000;
/// Where less than one in so many of the limit is used, a chart ends a little above what is.
const ZOOMS_BELOW: u64 = 5;

/// What was known at a resolution, up to now: a column for each point that may be kept, oldest first.
pub(super) struct Past {
    resolution: Resolution,
    columns: Vec<Option<Column>>,
}

/// What is drawn of one time.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Column {
    /// The most in that time.
    used: Option<u64>,
    line: Option<u64>,
    limit: Option<u64>,
}

impl Past {
    /// Takes the time by the clock on the wall, how often the process is looked at, and what the line
    /// is for a limit.
    ///
    /// What was seen stands until somebody had to look again.
    pub(super) fn new(
        points: &[HistoryPoint],
        resolution: Resolution,
        wall: SystemTime,
        interval: Duration,
        line_of: impl Fn(Option<u64>) -> Option<u64>,
    ) -> Self {
        let width = resolution.width();
        let in_columns = |time: Duration| {
            let columns = time.as_secs() / width.as_secs();
            usize::try_from(columns).unwrap_or(usize::MAX)
        };
        let mut columns = vec![None; resolution.points()];
        let reach = in_columns(interval).saturating_add(1);
        for point in points {
            // What is in the future was so before the clock was put right.
            let age = in_columns(wall.duration_since(point.time).unwrap_or_default());
            let Some(place) = columns.len().checked_sub(age + 1) else {
                continue;
            };
            let seen = Column {
                used: point.used.map(|used| used.max),
                line: line_of(point.limit),
                limit: point.limit,
            };
            // Those that come later write over it.
            let end = columns.len().min(place.saturating_add(reach));
            columns[place..end].fill(Some(seen));
        }
        Self {
            resolution,
            columns,
        }
    }

    /// Draws a chart, and says in words what is on it.
    pub(super) fn write(&self, html: &mut Html) {
        let time = self.resolution.width() * self.columns.len() as u32;
        let span = Span(time);
        let known = self.columns.iter().flatten();
        let used = known.clone().filter_map(|column| column.used);
        let (Some(least), Some(most)) = (used.clone().min(), used.max()) else {
            html.markup("<p>What was used in the last ");
            html.text(span);
            html.markup(" is not known.</p>");
            return;
        };
        let bounds = known.flat_map(|column| [column.line, column.limit]);
        let bound = bounds.flatten().max().unwrap_or(0);
        let is_zoomed = most < bound / ZOOMS_BELOW;
        let top = if is_zoomed {
            most + most / 4
        } else {
            most.max(bound)
        }
        .max(1);

        let (id, width) = (self.resolution.width().as_secs(), self.columns.len());
        html.markup("<figure><figcaption id=\"past-");
        html.text(id);
        html.markup("\">Last ");
        html.text(format_args!(
            "{span}: {:#} to {:#} used.",
            Size(least),
            Size(most)
        ));
        html.markup(if is_zoomed {
            " Line and limit are above the chart."
        } else {
            ""
        });
        html.markup(
            "</figcaption><div class=\"chart\"><svg role=\"img\" preserveAspectRatio=\"none\" aria-labelledby=\"past-",
        );
        html.text(id);
        html.markup("\" viewBox=\"0 0 ");
        html.text(format_args!("{width} {HEIGHT}"));
        html.markup("\"><path class=\"grid\" d=\"");
        let (middle, half) = (width / 2, HEIGHT / 2);
        html.text(format_args!(
            "M0 0H{width}M0 {half}H{width}M{middle} 0V{HEIGHT}"
        ));
        html.markup("\"/>");
        self.path(html, "used", Some(HEIGHT), top, |column| column.used);
        self.path(html, "line", None, top, |column| column.line);
        self.path(html, "limit", None, top, |column| column.limit);
        html.markup("</svg><p class=\"y\"><span>");
        html.text(Size(top));
        html.markup("</span> <span>");
        html.text(Size(top / 2));
        html.markup("</span> <span>0</span></p><p class=\"x\"><span>");
        html.text(format_args!("{span} ago"));
        html.markup("</span> <span>");
        html.text(format_args!("{} ago", Span(time / 2)));
        html.markup("</span> <span>now</span></p></div></figure>");
    }

    /// Draws a step for each column, and none where nothing is known, or that would be too high. Down to
    /// the base it is filled.
    fn path(
        &self,
        html: &mut Html,
        class: &'static str,
        base: Option<u64>,
        top: u64,
        value: impl Fn(&Column) -> Option<u64>,
    ) {
        let height_of = |column: &Column| {
            let value = value(column).filter(|value| *value <= top)?;
            let share = value as f64 / top as f64;
            // It is between 0 and the height.
            Some(HEIGHT - (share * HEIGHT as f64).round() as u64)
        };
        html.markup("<path class=\"");
        html.markup(class);
        html.markup("\" d=\"");
        let mut last = None;
        for (x, column) in self.columns.iter().enumerate() {
            let y = column.as_ref().and_then(height_of);
            if y == last {
                continue;
            }
            if last.is_some() {
                html.text(format_args!("H{x}"));
            }
            match (last, y, base) {
                (None, Some(y), Some(base)) => html.text(format_args!("M{x} {base}V{y}")),
                (None, Some(y), None) => html.text(format_args!("M{x} {y}")),
                (Some(_), Some(y), _) => html.text(format_args!("V{y}")),
                (_, None, Some(base)) => html.text(format_args!("V{base}Z")),
                (_, None, None) => {}
            }
            last = y;
        }
        if last.is_some() {
            html.text(format_args!("H{}", self.columns.len()));
            if let Some(base) = base {
                html.text(format_args!("V{base}Z"));
            }
        }
        html.markup("\"/>");
    }
}

/// Draws what is used, and what is kept beside it, below the line and the limit, and says so in words.
pub(super) fn bar(html: &mut Html, used: u64, kept: u64, line: Option<u64>, limit: u64) {
    let most = limit.max(used.saturating_add(kept)).max(1);
    // It is between 0 and the width.
    let wide = |bytes: u64| (bytes as f64 / most as f64 * WIDTH as f64).round() as u64;
    html.markup("<figure><figcaption id=\"now\">Now: ");
    html.text(format_args!("{:#} of {:#} used", Size(used), Size(limit)));
    if let Some(line) = line {
        html.text(format_args!(", the line is at {:#}", Size(line)));
    }
    html.markup(
        ".</figcaption><div class=\"chart\"><svg class=\"bar\" role=\"img\" preserveAspectRatio=\"none\" \
         aria-labelledby=\"now\" viewBox=\"0 0 1000 24\"><rect class=\"room\" width=\"",
    );
    html.text(wide(limit));
    html.markup("\" height=\"24\"/><rect class=\"used\" width=\"");
    html.text(wide(used));
    html.markup("\" height=\"24\"/><rect class=\"kept\" height=\"24\" x=\"");
    html.text(wide(used));
    html.markup("\" width=\"");
    html.text(wide(kept));
    html.markup("\"/>");
    if let Some(line) = line.filter(|line| *line <= most) {
        html.markup("<path class=\"line\" d=\"");
        html.text(format_args!("M{} 0V24", wide(line)));
        html.markup("\"/>");
    }
    html.markup("<path class=\"limit\" d=\"");
    html.text(format_args!("M{} 0V24", wide(limit)));
    html.markup("\"/></svg></div></figure>");
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use plimsoll_memory::history::{History, Point};
    use tokio::time::Instant;

    const MIB: u64 = 1 << 20;

    /// Of a history that began so many seconds ago, by what was used and the limit at seconds since.
    pub(crate) fn past(
        resolution: Resolution,
        ago: u64,
        points: impl IntoIterator<Item = (u64, Option<u64>, Option<u64>)>,
    ) -> Past {
        spaced(resolution, ago, Duration::from_millis(250), points)
    }

    fn spaced(
        resolution: Resolution,
        ago: u64,
        interval: Duration,
        points: impl IntoIterator<Item = (u64, Option<u64>, Option<u64>)>,
    ) -> Past {
        let began = Instant::now();
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let mut history = History::new(began, wall);
        for (second, used, limit) in points {
            let mut point = Point::default();
            (point.used, point.limit) = (used, limit);
            history.record(began + Duration::from_secs(second), point);
        }
        let points: Vec<_> = history.points(resolution).collect();
        let now = wall + Duration::from_secs(ago);
        let line_of = |limit: Option<u64>| limit.map(|limit| limit / 2);
        Past::new(&points, resolution, now, interval, line_of)
    }

    fn drawn(past: &Past) -> String {
        let mut html = Html::default();
        past.write(&mut html);
        html.into_string()
    }

    fn known(used: u64) -> (Option<u64>, Option<u64>) {
        (Some(used * MIB), Some(100 * MIB))
    }

    #[test]
    fn what_is_not_known_is_a_gap() {
        let seen = [
            (0, known(50)),
            (1, known(50)),
            (2, known(100)),
            (5, known(25)),
        ];
        let seen = seen.map(|(second, (used, limit))| (second, used, limit));
        let drawn = drawn(&past(Resolution::Second, 8, seen));
        let of = |class: &str| {
            let (_, rest) = drawn
                .split_once(&format!("<path class=\"{class}\" d=\""))
                .unwrap();
            rest.split_once('"').unwrap().0
        };
        assert_eq!(of("used"), "M591 120V60H593V0H594V120ZM596 120V90H597V120Z");
        assert_eq!(of("line"), "M591 60H594M596 60H597");
        assert_eq!(of("limit"), "M591 0H594M596 0H597");
        assert!(
            drawn.contains("Last 10 min: 25.0 MiB to 100 MiB used.</figcaption>"),
            "{drawn}"
        );
        for axis in [
            "<span>100 MiB</span> <span>50.0 MiB</span> <span>0</span>",
            "<span>10 min ago</span> <span>5 min ago</span> <span>now</span>",
        ] {
            assert!(drawn.contains(axis), "{drawn}");
        }
    }

    #[test]
    fn the_newest_is_at_the_right_edge_and_the_oldest_goes() {
        let seen = (0..700).map(|second| (second, Some(MIB), None));
        let past = past(Resolution::Second, 699, seen);
        assert_eq!(past.columns.len(), 600);
        assert!(past.columns.iter().all(Option::is_some));
        assert!(drawn(&past).contains("d=\"M0 120V0H600V120Z\""));
        // Half a minute is a column of the other.
        let seen = [(0, Some(MIB), None), (30, Some(2 * MIB), None)];
        let past = self::past(Resolution::HalfMinute, 59, seen);
        let used: Vec<_> = past
            .columns
            .iter()
            .map(|column| column.and_then(|it| it.used))
            .collect();
        assert_eq!(used[718..], [Some(MIB), Some(2 * MIB)]);
        assert_eq!(used[..718], [None; 718]);
    }

    #[test]
    fn what_was_seen_stands_until_somebody_looks_again() {
        let seen = [
            (0, Some(MIB), None),
            (5, Some(MIB), None),
            (20, Some(MIB), None),
        ];
        let past = spaced(Resolution::Second, 30, Duration::from_secs(5), seen);
        let known = past.columns.iter().map(Option::is_some);
        let known: Vec<_> = known.skip(600 - 31).collect();
        let expected: Vec<_> = (0..31)
            .map(|second| matches!(second, 0..11 | 20..26))
            .collect();
        assert_eq!(known, expected);
    }

    #[test]
    fn a_clock_that_went_back_moves_nothing_out_of_the_chart() {
        let wall = SystemTime::UNIX_EPOCH;
        let began = Instant::now();
        let mut history = History::new(began, wall + Duration::from_secs(60));
        history.record(
            began,
            Point {
                used: Some(MIB),
                ..Point::default()
            },
        );
        let points: Vec<_> = history.points(Resolution::Second).collect();
        let past = Past::new(&points, Resolution::Second, wall, Duration::ZERO, |_| None);
        assert_eq!(past.columns.iter().flatten().count(), 1);
        assert!(past.columns[599].is_some());
    }

    #[test]
    fn little_of_a_large_limit_is_drawn_large() {
        let seen = [(0, Some(8 * MIB), Some(4_096 * MIB))];
        let drawn = drawn(&past(Resolution::Second, 0, seen));
        assert!(
            drawn.contains("8.0 MiB used. Line and limit are above the chart."),
            "{drawn}"
        );
        assert!(drawn.contains("<span>10.0 MiB</span>"), "{drawn}");
        assert!(drawn.contains("d=\"M599 120V24H600V120Z\""), "{drawn}");
        assert!(drawn.contains("<path class=\"limit\" d=\"\"/>"), "{drawn}");
    }

    #[test]
    fn where_nothing_was_seen_there_is_no_chart() {
        for past in [
            past(Resolution::Second, 0, []),
            past(Resolution::Second, 0, [(0, None, Some(MIB))]),
            past(Resolution::Second, 10_000, [(0, Some(MIB), None)]),
        ] {
            let drawn = drawn(&past);
            assert_eq!(
                drawn,
                "<p>What was used in the last 10 min is not known.</p>"
            );
        }
        let drawn = drawn(&past(Resolution::Second, 0, [(0, Some(0), None)]));
        assert!(drawn.contains("M599 120V120H600V120Z"), "{drawn}");
    }

    #[test]
    fn a_bar_is_as_long_as_what_is_used_of_the_limit() {
        let drawn = |used, kept, line, limit| {
            let mut html = Html::default();
            bar(&mut html, used, kept, line, limit);
            html.into_string()
        };
        let some = drawn(30 * MIB, 10 * MIB, Some(90 * MIB), 100 * MIB);
        assert!(
            some.contains("Now: 30.0 MiB of 100 MiB used, the line is at 90.0 MiB."),
            "{some}"
        );
        assert!(some.contains("class=\"room\" width=\"1000\""), "{some}");
        assert!(some.contains("class=\"used\" width=\"300\""), "{some}");
        assert!(some.contains("x=\"300\" width=\"100\""), "{some}");
        assert!(some.contains("d=\"M900 0V24\""), "{some}");
        assert!(some.contains("d=\"M1000 0V24\""), "{some}");
        // More than there may be.
        let over = drawn(200 * MIB, 0, Some(90 * MIB), 100 * MIB);
        assert!(over.contains("class=\"room\" width=\"500\""), "{over}");
        assert!(over.contains("class=\"limit\" d=\"M500 0V24\""), "{over}");
        assert!(over.contains("class=\"used\" width=\"1000\""), "{over}");
        assert!(drawn(0, 0, None, 0).contains("class=\"used\" width=\"0\""));
        assert!(drawn(u64::MAX, u64::MAX, None, 1).contains("class=\"used\" width=\"1000\""));
    }
}
