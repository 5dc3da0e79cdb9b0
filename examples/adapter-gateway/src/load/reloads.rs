//! Changes the adapters under load, by the file that lists them.

use super::Held;
use crate::{
    BoxError,
    adapters::{Adapter, Known},
};
use plimsoll::{
    Plimsoll, Reload,
    config_files::{Effective, LoadError, to_yaml},
    settings::Value,
};
use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    process,
    time::Duration,
};
use tokio::{task, time::sleep};
use tokio_util::sync::CancellationToken;

const FILES: [&str; 2] = ["config.yaml", ADAPTERS_FILE];
const ADAPTERS_FILE: &str = "adapters.yaml";

/// Which of so many files is broken.
const BROKEN_EVERY: u64 = 10;

/// The adapter that comes and goes. It has connections of its own, which go with it.
const GUEST: &str = "load-guest";

/// A copy of a folder with a configuration, to be changed. It is gone when this is dropped.
#[derive(Debug)]
pub struct ConfigCopy(PathBuf);

/// Changes the file of a [`ConfigCopy`] and has it read, again and again.
///
/// The file is in turn another one (with other limits, and one adapter more) and the one that it
/// was; now and then it is broken, which has to change nothing.
#[derive(Debug)]
pub struct Reloads {
    plimsoll: Plimsoll,
    known: Known,
    copy: ConfigCopy,
    files: Files,
    /// Adapters that are gone, but still have calls.
    gone: Vec<Adapter>,
    outcomes: Outcomes,
}

/// What came of the changes, for people to read.
#[derive(Clone, Debug, Default)]
pub struct Outcomes {
    done: u64,
    refused: u64,
    wrong: u64,
    last_wrong: Option<String>,
}

/// What the file says in turn.
#[derive(Clone, Debug)]
struct Files {
    as_it_was: String,
    other: String,
    broken: String,
}

/// What has to come of a change.
#[derive(Clone, Copy, Debug)]
enum Expected {
    Guest(bool),
    Refusal,
}

impl ConfigCopy {
    /// Copies the files of `folder` to a folder of this process below `data`.
    ///
    /// # Errors
    ///
    /// When they cannot be read or written.
    pub fn of(folder: &Path, data: &Path) -> io::Result<Self> {
        let copy = Self(data.join(format!("config-under-load-{}", process::id())));
        fs::create_dir_all(&copy.0)?;
        for file in FILES {
            if folder.join(file).exists() {
                fs::copy(folder.join(file), copy.0.join(file))?;
            }
        }
        Ok(copy)
    }

    /// Where it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// Puts another file in the place of the old one, so that nobody reads half of it.
    fn replace(&self, text: &str) -> io::Result<()> {
        let new = self.0.join("new");
        fs::write(&new, text)?;
        fs::rename(new, self.0.join(ADAPTERS_FILE))
    }
}

impl Drop for ConfigCopy {
    fn drop(&mut self) {
        // Left behind, it does no harm.
        _ = fs::remove_dir_all(&self.0);
    }
}

impl Reloads {
    /// Will change the adapters of a service that was started with the copy, and has these
    /// settings.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn new(
        plimsoll: Plimsoll,
        known: Known,
        copy: ConfigCopy,
        values: &[Effective],
    ) -> Result<Self, BoxError> {
        let file = copy.0.join(ADAPTERS_FILE);
        let as_it_was = match file.exists() {
            true => fs::read_to_string(file)?,
            false => String::new(),
        };
        Ok(Self {
            plimsoll,
            known,
            copy,
            files: Files::new(as_it_was, values),
            gone: Vec::new(),
            outcomes: Outcomes::default(),
        })
    }

    /// Changes them once in a `period`, until the token is cancelled. Tells what came of it, and
    /// which adapters are gone without having ended their calls.
    ///
    /// # Panics
    ///
    /// On a runtime of one thread, which it would block while it writes the file.
    pub async fn run(
        mut self,
        period: Duration,
        ended: CancellationToken,
    ) -> (Outcomes, Vec<Adapter>) {
        for turn in 0.. {
            if ended.run_until_cancelled(sleep(period)).await.is_none() {
                break;
            }
            if let Err(error) = self.change(turn).await {
                self.outcomes.wrong(error.to_string());
            }
        }
        (self.outcomes, self.gone)
    }

    async fn change(&mut self, turn: u64) -> io::Result<()> {
        let (text, expected) = self.files.of_turn(turn);
        task::block_in_place(|| self.copy.replace(text))?;
        let before = self.known.all().list();
        let result = self.plimsoll.reload().await;
        let now = self.known.all().list();
        let is_gone = |old: &Adapter| !now.iter().any(|new| new.is(old));
        self.gone
            .extend(before.iter().filter(|old| is_gone(old)).cloned());
        self.gone
            .retain(|adapter| !Held::of([adapter]).is_nothing());
        let names = |list: &[Adapter]| list.iter().map(Adapter::name).collect::<Vec<_>>();
        let (before, now) = (names(&before), names(&now));
        let guest = now.iter().any(|name| name.as_str() == GUEST);
        self.outcomes.note(&result, expected, guest, before == now);
        Ok(())
    }
}

impl Files {
    fn new(as_it_was: String, values: &[Effective]) -> Self {
        let adapters = values.iter().filter(|it| it.key.starts_with("adapters."));
        let others: Vec<_> = adapters.cloned().map(other).collect();
        let mut other = to_yaml(&others, Some("adapters"));
        if other.is_empty() {
            other.push_str("adapters:\n");
        }
        let broken = format!("{other}  - name: {GUEST}\n    type: nothing\n");
        other.push_str(&format!(
            "  - name: {GUEST}\n    type: http\n    url: demo\n"
        ));
        Self {
            as_it_was,
            other,
            broken,
        }
    }

    fn of_turn(&self, turn: u64) -> (&str, Expected) {
        match turn {
            turn if turn % BROKEN_EVERY == BROKEN_EVERY - 1 => (&self.broken, Expected::Refusal),
            turn if turn % 2 == 0 => (&self.other, Expected::Guest(true)),
            _ => (&self.as_it_was, Expected::Guest(false)),
        }
    }
}

/// A limit gets another value, which is within its range too.
fn other(mut setting: Effective) -> Effective {
    let key = setting.key.rsplit('.').next().unwrap_or_default();
    setting.value = match (key, setting.value) {
        ("timeout", Value::Duration(timeout)) if timeout < Duration::from_secs(60) => {
            Value::Duration(timeout * 2)
        }
        ("max_queued", Value::Integer(calls)) => Value::Integer(calls / 2),
        ("calls", Value::Integer(records)) if records > 1 => Value::Integer(records / 2),
        (_, value) => value,
    };
    setting
}

impl Outcomes {
    fn note(
        &mut self,
        result: &Result<Reload, LoadError>,
        expected: Expected,
        guest: bool,
        unchanged: bool,
    ) {
        match (result, expected) {
            (Ok(_), Expected::Guest(expected)) if guest == expected => self.done += 1,
            (Err(_), Expected::Refusal) if unchanged => self.refused += 1,
            (Ok(_), expected) => self.wrong(format!(
                "read, with the guest there: {guest}, but expected was {expected:?}"
            )),
            (Err(error), expected) => {
                self.wrong(format!("refused, but expected was {expected:?}: {error}"));
            }
        }
    }

    fn wrong(&mut self, what: String) {
        self.wrong += 1;
        self.last_wrong = Some(what);
    }
}

impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            done,
            refused,
            wrong,
            last_wrong,
        } = self;
        write!(
            f,
            "reloads   {done} done, {refused} broken files refused, {wrong} went wrong"
        )?;
        match last_wrong {
            Some(what) => write!(f, ", the last: {what}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::KindSettings;
    use plimsoll::{Config, ConfigFiles, config_files::Source};

    #[test]
    fn files_have_other_limits_and_a_guest_in_turn_and_now_and_then_a_mistake() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
        let files = ConfigFiles::in_folder(folder).no_variables();
        let loaded = files.load_with::<KindSettings>(Config::new()).unwrap();
        let files = Files::new("as it was".to_owned(), &loaded.values());
        assert_eq!(files.of_turn(1).0, "as it was");
        for (turn, guest) in [(0, "http\n    url: demo"), (9, "nothing")] {
            let text = files.of_turn(turn).0;
            assert!(
                text.starts_with("adapters:\n  - name: \"qa-sql\"\n"),
                "{text}"
            );
            let guest = format!("\n  - name: load-guest\n    type: {guest}\n");
            assert!(text.ends_with(&guest), "{text}");
            for limit in ["timeout: \"4s\"", "max_queued: 128", "calls: 5000"] {
                assert!(text.contains(&format!(" {limit} # ")), "{limit}: {text}");
            }
        }
        let none = Files::new(String::new(), &[]);
        let text = none.of_turn(0).0;
        assert!(
            text.starts_with("adapters:\n  - name: load-guest\n"),
            "{text}"
        );
    }

    #[test]
    fn only_what_was_expected_is_right() {
        let refused = || Err(LoadError::new(Source::Code, "", "no"));
        for (result, expected, guest, unchanged, right) in [
            (
                Ok(Reload::default()),
                Expected::Guest(true),
                true,
                false,
                "1 done, 0",
            ),
            (
                Ok(Reload::default()),
                Expected::Guest(false),
                false,
                true,
                "1 done, 0",
            ),
            (refused(), Expected::Refusal, true, true, "0 done, 1"),
            (
                Ok(Reload::default()),
                Expected::Guest(true),
                false,
                false,
                "",
            ),
            (
                Ok(Reload::default()),
                Expected::Guest(false),
                true,
                false,
                "",
            ),
            (Ok(Reload::default()), Expected::Refusal, true, true, ""),
            (refused(), Expected::Refusal, true, false, ""),
            (refused(), Expected::Guest(true), true, true, ""),
        ] {
            let mut outcomes = Outcomes::default();
            outcomes.note(&result, expected, guest, unchanged);
            let text = outcomes.to_string();
            let expected = match right {
                "" => "reloads   0 done, 0 broken files refused, 1 went wrong, the last: ".into(),
                right => format!("reloads   {right} broken files refused, 0 went wrong"),
            };
            assert!(text.starts_with(&expected), "{text}");
        }
    }
}
