//! The load with all that goes on beside it.

use super::{Asker, Memory, Outcomes, Reloads, Summary};
use crate::{
    adapters::{Adapter, Known},
    flaky::Flaky,
};
use plimsoll::{Phase, Plimsoll};
use std::{fmt, time::Duration};
use tokio::{join, select, task};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Has a gateway ask itself, while its adapters fail and change.
#[derive(Debug)]
pub struct Drive {
    /// The service, which is stopped at the end.
    pub plimsoll: Plimsoll,
    /// Its adapters.
    pub known: Known,
    /// Who asks.
    pub asker: Asker,
    /// For how long.
    pub duration: Duration,
    /// The adapters that fail.
    pub flaky: Flaky,
    /// How long they work, and then fail, in turn. With 0 they are left alone.
    pub flip: Duration,
    /// What changes the adapters, and how often.
    pub reloads: Option<(Reloads, Duration)>,
    /// Tells how many bytes are allocated.
    pub heap: fn() -> u64,
}

/// What came of all, for people to read.
#[derive(Debug)]
pub struct Driven {
    summary: Summary,
    reloads: Option<Outcomes>,
    held: Held,
    memory: Memory,
}

/// What calls have taken, and not given back.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Held {
    in_flight: u64,
    queued: u64,
}

impl Drive {
    /// Runs the load until the time is over, or the service is told to stop, and stops it then.
    pub async fn run(self) -> Driven {
        let Self {
            plimsoll,
            known,
            asker,
            duration,
            flaky,
            flip,
            reloads,
            heap,
        } = self;
        let faults = (!flip.is_zero()).then(|| {
            AbortOnDropHandle::new(task::spawn(async move { flaky.alternate(flip).await }))
        });
        let (told, ended) = (CancellationToken::new(), CancellationToken::new());
        let load = async {
            let ask = move |serial, question| asker.clone().ask(serial, question);
            let run = super::run(duration, told.clone(), ask);
            let mut run = std::pin::pin!(run);
            let mut phase = plimsoll.lifecycle().watch_phase();
            let leaving = async {
                _ = phase.wait_for(|phase| Phase::Leaving <= *phase).await;
                told.cancel();
            };
            let summary = select! {
                summary = &mut run => summary,
                () = leaving => run.await,
            };
            ended.cancel();
            summary
        };
        let changes = async {
            let (reloads, period) = reloads?;
            Some(reloads.run(period, ended.clone()).await)
        };
        let memory = Memory::watch(duration, heap, ended.clone());
        let (summary, changes, memory) = join!(load, changes, memory);
        drop(faults);
        let (reloads, gone) = changes.unzip();
        let adapters = known.all().list();
        let driven = Driven {
            summary,
            reloads,
            held: Held::of(adapters.iter().chain(gone.iter().flatten())),
            memory,
        };
        plimsoll.request_stop();
        driven
    }
}

impl Held {
    /// What calls of these adapters hold now.
    #[must_use]
    pub fn of<'a>(adapters: impl IntoIterator<Item = &'a Adapter>) -> Self {
        let mut held = Self::default();
        for adapter in adapters {
            let snapshot = adapter.snapshot();
            held.in_flight += snapshot.in_flight;
            held.queued += snapshot.queued;
        }
        held
    }

    /// Whether everything was given back.
    #[must_use]
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

impl fmt::Display for Driven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            summary,
            reloads,
            held,
            memory,
        } = self;
        writeln!(f, "{summary}")?;
        if let Some(reloads) = reloads {
            writeln!(f, "{reloads}")?;
        }
        let Held { in_flight, queued } = held;
        writeln!(
            f,
            "permits   {in_flight} in flight and {queued} in line at the end"
        )?;
        write!(f, "{memory}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::question::{Failure, Found, Question};
    use std::future;
    use tokio::time::timeout;

    #[tokio::test(start_paused = true)]
    async fn what_is_held_are_the_calls_in_flight_and_in_line_of_all() {
        let hang = |_: Question| future::pending::<Result<Vec<Found>, Failure>>();
        let adapters = ["a", "b"].map(|name| {
            let narrow = plimsoll::Adapter::builder(name).max_in_flight(1);
            narrow.function(hang).unwrap()
        });
        let soon = Duration::from_millis(500);
        let call = |n: usize| timeout(soon, adapters[n].call("why?".into()));
        let (_, _, _, held) = join!(call(0), call(0), call(1), async {
            tokio::time::sleep(soon / 2).await;
            Held::of(&adapters)
        });
        let expected = Held {
            in_flight: 2,
            queued: 1,
        };
        assert_eq!(held, expected);
        assert!(!held.is_nothing());
        assert!(Held::of(&adapters).is_nothing());
    }
}
