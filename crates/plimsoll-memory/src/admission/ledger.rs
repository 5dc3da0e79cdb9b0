//! The ledger of what is reserved, and the line that all of it has to stay under.

mod admit;
mod book;
mod queue;
mod room;

use self::book::Book;
use super::{
    AdmissionConfig, AdmissionMode, Meter, Priority, learn::Learned, permit::Hold, route::Standing,
    shed::Scarce, stats::Counts, usage::Reuse, wait::Waiter,
};
use crate::{
    BudgetMode,
    reclaim::{CancelAsk, Cancelled, choose_victims},
};
use plimsoll_core::{Clock, Name, RejectReason, Rejected, stripe};
use std::{
    hint::spin_loop,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError,
        atomic::{
            AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed,
        },
    },
    time::Duration,
};

/// Threads count what is small in stripes of their own.
const STRIPES: usize = 4;

/// A request is small if it holds no more than this part of the line.
const SMALL: u64 = 1_024;
/// When a stripe has so much more reserved, as a part of the line, all are added up.
const CHUNK: u64 = 256;
/// What the first requests of a route are taken to hold, as a part of the line.
const GUESS: u64 = 8;

/// Nobody holds more than that, whatever it says. Sums of it do not overflow.
const MOST: u64 = 1 << 40;

/// How often somebody pauses who finds the ledger locked, before it tries again, and waits in the end. Who
/// tries all the time has what the ledger is about moved to and fro between processors, which takes longer
/// than all that is done with it.
const PAUSES: [u32; 3] = [64, 128, 256];

/// Who is let in, and who waits.
pub(super) struct Ledger {
    pub(super) clock: Clock,
    config: RwLock<AdmissionConfig>,
    /// Rises with each change of the configuration.
    version: AtomicU32,
    /// Whether nobody has to ask: it is off, or there is no line.
    idle: AtomicBool,
    /// Whether something is shed: that counts without a line, too.
    sheds: AtomicBool,
    enforces: AtomicBool,
    /// `u64::MAX` where none is known.
    line: AtomicU64,
    /// The largest request that is small.
    small: AtomicU64,
    /// How many bits a chunk has.
    chunk: AtomicU8,
    /// What the first requests of a route are taken to hold.
    guess: AtomicU64,
    /// As its bits.
    quantile: AtomicU64,
    stripes: [Stripe; STRIPES],
    /// Whether small ones have to ask, since there may be no room for each.
    closed: AtomicBool,
    waiting: AtomicUsize,
    /// When somebody last looked whether those who wait fit.
    looked: AtomicU64,
    pub(super) counts: Counts,
    book: Mutex<Book>,
}

/// What is reserved for small ones by the threads of a stripe.
#[derive(Default)]
#[repr(align(128))]
struct Stripe(AtomicI64);

/// Who asks to be let in.
pub(super) struct Asking<'a> {
    pub(super) name: Name,
    pub(super) learned: &'a Arc<Learned>,
    /// Which size its body is said to have.
    pub(super) class: u8,
    pub(super) standing: Standing,
    pub(super) key: Option<u64>,
    /// What it says of itself that it will hold.
    pub(super) declared: u64,
    /// Whether what it will hold is counted.
    pub(super) is_counted: bool,
}

pub(super) enum Answer {
    In(Hold),
    Wait(Arc<Waiter>, Duration),
    Refused(Rejected),
}

// === impl Ledger ===

impl Ledger {
    pub(super) fn new(clock: Clock, meter: Box<dyn Meter>) -> Self {
        let ledger = Self {
            clock,
            config: RwLock::default(),
            version: AtomicU32::new(0),
            idle: AtomicBool::new(true),
            sheds: AtomicBool::new(false),
            enforces: AtomicBool::new(false),
            line: AtomicU64::new(0),
            small: AtomicU64::new(0),
            chunk: AtomicU8::new(0),
            guess: AtomicU64::new(0),
            quantile: AtomicU64::new(0),
            stripes: Default::default(),
            closed: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            looked: AtomicU64::new(0),
            counts: Counts::default(),
            book: Mutex::new(Book::new(meter)),
        };
        ledger.configure(&AdmissionConfig::new());
        ledger.set_line(None);
        ledger
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Book> {
        for pauses in PAUSES {
            match self.book.try_lock() {
                Ok(book) => return book,
                Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => (0..pauses).for_each(|_| spin_loop()),
            }
        }
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn config(&self) -> AdmissionConfig {
        let config = self.config.read();
        config.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn configure(&self, config: &AdmissionConfig) {
        let mut held = self.config.write().unwrap_or_else(PoisonError::into_inner);
        held.clone_from(config);
        self.version.fetch_add(1, Relaxed);
        let enforces = config.mode == AdmissionMode::Enforce;
        self.enforces.store(enforces, Relaxed);
        self.quantile.store(config.quantile.to_bits(), Relaxed);
        self.follow(&held);
        drop(held);
        // Whoever waits may not have to any more.
        self.tick();
    }

    /// Works out what follows from the configuration, the line and what is shed, so that nobody has to for
    /// each request. With the lock of the configuration held for writing, so that the last who changes one
    /// of them knows all.
    fn follow(&self, config: &AdmissionConfig) {
        let refuses = self.line().is_some() || self.sheds.load(Relaxed);
        let idle = config.mode == AdmissionMode::Off || !refuses;
        self.idle.store(idle, Relaxed);
        let line = self.line.load(Relaxed);
        let guess = config.guess.unwrap_or(line / GUESS).min(MOST);
        self.guess.store(guess, Relaxed);
    }

    /// What of the configuration concerns a route.
    pub(super) fn standing(&self, name: Name) -> Standing {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner);
        let is_in = |routes: &[String]| routes.iter().any(|route| route == name.as_str());
        if is_in(&config.exempt) {
            Standing::Exempt
        } else if is_in(&config.high_priority) {
            Standing::Asks(Priority::High)
        } else if is_in(&config.low_priority) {
            Standing::Asks(Priority::Low)
        } else {
            Standing::Asks(Priority::Normal)
        }
    }

    #[inline]
    pub(super) fn version(&self) -> u32 {
        self.version.load(Relaxed)
    }

    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.idle.load(Relaxed)
    }

    pub(super) fn line(&self) -> Option<u64> {
        match self.line.load(Relaxed) {
            u64::MAX => None,
            line => Some(line),
        }
    }

    pub(super) fn set_line(&self, line: Option<u64>) {
        let word = line.unwrap_or(u64::MAX);
        // Before the line changes, so that what follows from it is of the same one, whoever else sets it.
        let config = self.config.write().unwrap_or_else(PoisonError::into_inner);
        if self.line.swap(word, Relaxed) == word {
            return;
        }
        // A permit has so much room for it.
        self.small
            .store((word / SMALL).min(u32::MAX.into()), Relaxed);
        let bits = u64::BITS - (word / CHUNK).leading_zeros().max(1);
        self.chunk.store(bits as u8, Relaxed);
        self.follow(&config);
        drop(config);
        self.tick();
    }

    pub(super) fn set_meter(&self, meter: Box<dyn Meter>) {
        let mut book = self.lock();
        let before = mem::replace(&mut book.meter, meter);
        book.read = None;
        book.reuse = Reuse::new();
        book.used = None;
        // Whatever it does then, it may do so without the lock.
        drop(book);
        drop(before);
    }

    /// The allocator has given back what it had free.
    pub(super) fn purged(&self) {
        let mut book = self.lock();
        book.reuse.forget();
        book.read = None;
        drop(book);
        self.tick();
    }

    /// Sheds so much, from 0 to 1, for want of something.
    pub(super) fn set_shed(&self, share: f64, of: Scarce) {
        // Until all of it is set, so that the last who sets it says what follows from it.
        let mut book = self.lock();
        book.shed.set(share, of);
        if self.sheds.swap(share > 0.0, Relaxed) != (share > 0.0) {
            let config = self.config.write().unwrap_or_else(PoisonError::into_inner);
            self.follow(&config);
        }
        drop(book);
        self.tick();
    }

    /// How many tasks may be alive, and which percentage of the descriptors open.
    pub(super) fn crowd(&self) -> (Option<u64>, Option<f64>) {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner);
        (config.max_tasks, config.max_descriptors)
    }

    /// Lets a small one in that has room for certain.
    #[inline]
    pub(super) fn admit_small(&self, bytes: u64, class: u8) -> Option<Hold> {
        if bytes > self.small.load(Relaxed) || self.closed.load(Relaxed) {
            return None;
        }
        let stripe = stripe::current() % STRIPES;
        let bytes = bytes as i64;
        let before = self.stripes[stripe].0.fetch_add(bytes, Relaxed);
        let chunk = self.chunk.load(Relaxed);
        if before >> chunk != (before + bytes) >> chunk {
            self.stripes[stripe].0.fetch_sub(bytes, Relaxed);
            return None;
        }
        Some(Hold::small(stripe, class, bytes))
    }

    #[inline]
    pub(super) fn release_small(&self, stripe: usize, bytes: i64) {
        self.stripes[stripe].0.fetch_sub(bytes, Relaxed);
    }

    fn reserved_for_small(&self) -> u64 {
        let sum: i64 = self.stripes.iter().map(|it| it.0.load(Relaxed)).sum();
        u64::try_from(sum).unwrap_or(0)
    }

    pub(super) fn is_small(&self, bytes: u64) -> bool {
        bytes <= self.small.load(Relaxed)
    }

    pub(super) fn guess(&self) -> u64 {
        self.guess.load(Relaxed)
    }

    pub(super) fn quantile(&self) -> f64 {
        f64::from_bits(self.quantile.load(Relaxed))
    }

    pub(super) fn cancel_largest(&self, ask: &CancelAsk) -> Cancelled {
        let book = self.lock();
        let running: Vec<_> = book
            .running
            .all()
            .filter_map(|large| Some((large.clone(), large.victim()?)))
            .collect();
        drop(book);
        let candidates: Vec<_> = running.iter().map(|(_, victim)| *victim).collect();
        let chosen = choose_victims(&candidates, ask);
        if ask.mode == BudgetMode::Enforce {
            chosen.iter().for_each(|place| running[*place].0.cancel());
            self.counts.cancelled(chosen.len());
        }
        Cancelled {
            requests: chosen.len() as u64,
            bytes: chosen.iter().map(|place| candidates[*place].used).sum(),
        }
    }

    pub(super) fn look(&self) -> Look {
        let now = self.clock.ticks();
        let book = self.lock();
        Look {
            used: book.used.map(|used| used.now()),
            kept: book.used.map(|used| used.kept()),
            reused: book.reuse.reused(),
            growth: book.running.growth().total(),
            on_trial: book.running.on_trial().reserved,
            reserved_for_small: self.reserved_for_small(),
            running: book.running.count(),
            held: book.running.held(),
            waiting: self.waiting.load(Relaxed),
            // Whoever was short of it may be in by now, or gone.
            is_short: book.is_short && self.waiting.load(Relaxed) > 0,
            drain: book.drain.rate_at(now) as u64,
            shed: book.shed.share,
        }
    }
}

/// What the ledger says at a time.
pub(super) struct Look {
    pub(super) used: Option<u64>,
    pub(super) kept: Option<u64>,
    pub(super) reused: f64,
    pub(super) growth: u64,
    pub(super) on_trial: u64,
    pub(super) reserved_for_small: u64,
    pub(super) running: usize,
    pub(super) held: u64,
    pub(super) waiting: usize,
    pub(super) is_short: bool,
    pub(super) drain: u64,
    pub(super) shed: f64,
}

fn refusal(reason: RejectReason, name: Name, retry_after: Duration) -> Rejected {
    Rejected::new(reason, name).with_retry_after(retry_after)
}

#[cfg(test)]
mod tests;
