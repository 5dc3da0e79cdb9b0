use super::{
    Ask, Permit, Priority, Waiting,
    learn::Learned,
    ledger::{Answer, Asking, Ledger},
    permit::Hold,
};
use crate::Attribution;
use plimsoll_alloc::{MemoryScope, untracked};
use plimsoll_core::{Name, Rejected};
use std::{
    fmt, mem,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::Waker,
};

/// Requests are told apart by how large their bodies are said to be: none or up to 64 KiB, up to 1
/// MiB, up to 16 MiB, and above.
const CLASSES: usize = 4;
const CLASS_FROM: [u64; CLASSES - 1] = [(64 << 10) + 1, (1 << 20) + 1, (16 << 20) + 1];

/// One in so many of those that fit what was expected is learned of.
const SAMPLED: u32 = 8;

/// What is learned of the requests of a route, by which they are let in.
pub(crate) struct Route {
    name: Name,
    ledger: Arc<Ledger>,
    /// The version of the configuration that the standing is of, and the standing.
    standing: AtomicU32,
    classes: [OnceLock<Arc<Learned>>; CLASSES],
    refused: AtomicU64,
}

/// What of the configuration concerns a route.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Standing {
    Exempt,
    Asks(Priority),
}

/// Whether a request is let in.
#[derive(Debug)]
#[allow(
    clippy::exhaustive_enums,
    reason = "whoever asks has to do something in each case"
)]
pub enum Admitted {
    /// It is.
    Now(Permit),
    /// It has to wait.
    Later(Waiting),
    /// It is not.
    Refused(Rejected),
}

impl Route {
    pub(super) fn new(name: Name, ledger: Arc<Ledger>) -> Self {
        Self {
            name,
            ledger,
            standing: AtomicU32::new(0),
            classes: [const { OnceLock::new() }; CLASSES],
            refused: AtomicU64::new(0),
        }
    }

    pub(super) fn name(&self) -> Name {
        self.name
    }

    /// How many were refused.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// What the next one is taken to hold at most: the most of all sizes.
    pub(super) fn expected(&self) -> Option<u64> {
        let classes = self.classes.iter().filter_map(OnceLock::get);
        classes.filter_map(|learned| learned.expected()).max()
    }

    /// Lets one in for which there is room for certain.
    #[inline]
    pub(crate) fn admit_at_once(&self, declared: Option<u64>) -> Option<Hold> {
        if self.ledger.is_idle() {
            return Some(Hold::Nothing);
        }
        let class = class(declared.unwrap_or(0));
        let learned = self.classes[usize::from(class)].get()?;
        self.ledger.admit_small(learned.expected()?, class)
    }

    #[cold]
    pub(crate) fn admit(self: &Arc<Self>, ask: &Ask) -> Admitted {
        let class = class(ask.declared.unwrap_or(0));
        let standing = match (self.standing(), ask.priority) {
            (Standing::Asks(_), Some(own)) => Standing::Asks(own),
            (standing, _) => standing,
        };
        let asking = Asking {
            name: self.name,
            learned: self.learned(class),
            class,
            standing,
            key: ask.key.map(|key| key.0.max(1)),
            declared: ask.declared.unwrap_or(0),
            is_counted: Attribution::of_allocator() == Some(Attribution::Exact),
        };
        match self.ledger.admit(&asking) {
            Answer::In(hold) => Admitted::Now(Permit::new(hold, self.clone())),
            Answer::Wait(waiter, time) => {
                Admitted::Later(untracked(|| Waiting::new(self.clone(), waiter, time)))
            }
            Answer::Refused(rejected) => {
                self.was_refused();
                Admitted::Refused(rejected)
            }
        }
    }

    pub(super) fn was_refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn learned(&self, class: u8) -> &Arc<Learned> {
        let class = &self.classes[usize::from(class)];
        class.get_or_init(|| untracked(|| Arc::new(Learned::new())))
    }

    fn standing(&self) -> Standing {
        let version = self.ledger.version() << 2;
        let word = self.standing.load(Relaxed);
        if word & !3 == version {
            return Standing::from_bits(word & 3);
        }
        let standing = self.ledger.standing(self.name);
        self.standing.store(version | standing.bits(), Relaxed);
        standing
    }

    /// The handler of one that was let in runs, in this scope.
    #[inline]
    pub(crate) fn runs(&self, hold: &Hold, scope: &MemoryScope) {
        if let Hold::Large(large) = hold {
            large.runs(scope);
        }
    }

    /// Its handler waits. Whoever has grown large by then is counted by itself from now on, and is as old as
    /// it says, in nanoseconds.
    #[inline]
    pub(crate) fn waits(
        &self,
        hold: &mut Hold,
        scope: &MemoryScope,
        waker: &Waker,
        age: impl FnOnce() -> u64,
    ) {
        if let Hold::Small { bytes, class, .. } = *hold {
            let live = scope.usage().live;
            if live > bytes.into() && !self.ledger.is_small(live) {
                self.promote(hold, class, scope, age());
            }
        }
        if let Hold::Large(large) = hold {
            large.waits(waker);
        }
    }

    /// One answers, and its body may never end. What a small one holds is seen in what is used;
    /// a large one of whose kind nothing is known may show by it that it is light.
    #[inline]
    pub(crate) fn answers(&self, hold: &mut Hold) {
        match hold {
            Hold::Nothing => {}
            Hold::Small { stripe, bytes, .. } => {
                let reserved = mem::take(bytes);
                self.ledger.release_small((*stripe).into(), reserved.into());
            }
            Hold::Large(large) => large.answers(),
        }
    }

    #[cold]
    fn promote(&self, hold: &mut Hold, class: u8, scope: &MemoryScope, age: u64) {
        // Its own is not known any more, nor whose it is: nobody asked when it was let in.
        let priority = match self.standing() {
            Standing::Exempt => Priority::High,
            Standing::Asks(priority) => priority,
        };
        let learned = self.learned(class);
        let large = self.ledger.promote(learned, priority, scope, age);
        self.release(mem::replace(hold, large), None, 0);
    }

    /// One has ended, and had held so much at most, if that is known.
    #[inline]
    pub(crate) fn release(&self, hold: Hold, peak: Option<u64>, began: u64) {
        match hold {
            Hold::Nothing => {}
            Hold::Small {
                stripe,
                class,
                bytes,
            } => {
                self.ledger.release_small(stripe.into(), bytes.into());
                if let Some(peak) = peak {
                    self.learn(class, peak, began);
                }
            }
            Hold::Large(large) => self.ledger.release(&large, peak),
        }
    }

    #[inline]
    fn learn(&self, class: u8, peak: u64, began: u64) {
        let Some(learned) = self.classes[usize::from(class)].get() else {
            return;
        };
        // Those that are larger are few, and all of them matter. When one began is as good as chance,
        // and not the same for two threads at a time.
        if learned.expected().is_some_and(|expected| peak > expected) {
            let (quantile, guess) = (self.ledger.quantile(), self.ledger.guess());
            learned.record(peak, 1, quantile, None, guess);
        } else if chance(began) < u64::MAX / u64::from(SAMPLED) {
            learned.sample(peak, SAMPLED, || {
                (self.ledger.quantile(), self.ledger.guess())
            });
        }
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Standing {
    const fn bits(self) -> u32 {
        match self {
            Self::Exempt => 3,
            Self::Asks(priority) => priority as u32,
        }
    }

    const fn from_bits(bits: u32) -> Self {
        match bits {
            0 => Self::Asks(Priority::High),
            1 => Self::Asks(Priority::Normal),
            2 => Self::Asks(Priority::Low),
            _ => Self::Exempt,
        }
    }
}

/// Any number, with all bits of it by those of `time`.
const fn chance(time: u64) -> u64 {
    time.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn class(declared: u64) -> u8 {
    CLASS_FROM.iter().filter(|from| declared >= **from).count() as u8
}
