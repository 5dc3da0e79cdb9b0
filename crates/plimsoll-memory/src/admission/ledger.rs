//! The ledger of what is reserved, and the line that all of it has to stay under.

use super::{
    AdmissionConfig, AdmissionMode, Meter, Priority,
    growth::{Growth, Spread},
    learn::{Ages, BEGUN, Learned},
    permit::Hold,
    route::Standing,
    stats::Counts,
    trial::{self, Shows, Trial},
    usage::{Reuse, Usage},
    wait::Waiter,
};
use crate::{
    BudgetMode,
    reclaim::{CancelAsk, Cancelled, Victim, choose_victims},
};
use plimsoll_alloc::{MemoryScope, untracked};
use plimsoll_core::{Clock, Name, RejectReason, Rejected, stripe};
use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{
            AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed,
        },
    },
    task::Waker,
    time::Duration,
};

/// Threads count what is small in stripes of their own.
const STRIPES: usize = 4;

/// A request is small if it holds no more than this part of the line.
const SMALL: u64 = 1_024;
/// What is only guessed of a request is taken to be half as much after so long, in nanoseconds.
const GUESS_HALVES: u64 = 1_000_000_000;
/// What is announced of a body counts up to so many guesses, until it is known better.
const ANNOUNCED: u64 = 2;
/// When a stripe has so much more reserved, as a part of the line, all are added up.
const CHUNK: u64 = 256;
/// This part of the line is left to small requests, so that large ones never keep them out.
const FOR_SMALL: u64 = 64;
/// Those who run do not count, for whoever waits for all others to end, if they hold no more than that
/// part of the line in all: a stream of events may never end.
const ALONE: u64 = 32;
/// What the first requests of a route are taken to hold, as a part of the line.
const GUESS: u64 = 8;

/// Nobody holds more than that, whatever it says. Sums of it do not overflow.
const MOST: u64 = 1 << 40;
/// Nor is more used, whatever the meter says.
const MOST_USED: u64 = 1 << 60;

/// What is used is not read again sooner than that, in nanoseconds.
const FRESH: u64 = 500_000;
/// The same where there is room for long, or nobody waits.
const FRESH_IF_ROOMY: u64 = 20_000_000;
/// There is room for long if this part of the line is free.
const ROOMY: u64 = 4;
/// Reading takes at most this part of the time, unless it is slower than usual: who is kept from it by
/// others would wait for long.
const READING_SHARE: u64 = 20;
const SLOW_READING: u64 = 250_000;

/// How often in a row what is used may be unreadable before nothing is known of it.
const MOST_BLIND: u8 = 100;

/// A rate counts half as much after so long, in seconds.
const HALF_LIFE: f64 = 2.0;
const LONGEST_RETRY: f64 = 60.0;

/// Lanes: small and large, each by priority.
const LANES: usize = 2 * Priority::ALL.len();
/// How many of those who wait may be let in out of their turn. Those past that wait for it.
const MOST_UNTRIED: usize = 256;

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

/// What only those see who have the lock.
pub(super) struct Book {
    meter: Box<dyn Meter>,
    /// When what is used was read last, and how long that took.
    read: Option<(u64, u64)>,
    /// What was used then; none where nobody says.
    used: Option<Usage>,
    /// What large ones that run may still grow by.
    growth: Growth,
    /// What large ones hold.
    held: u64,
    reuse: Reuse,
    /// How often in a row what is used could not be read.
    blind: u8,
    large: Vec<Option<Arc<Large>>>,
    free: Vec<usize>,
    running: usize,
    lanes: [VecDeque<Arc<Waiter>>; LANES],
    /// Those in the lanes of whose kind nothing was known when they came.
    untried: VecDeque<Arc<Waiter>>,
    waiting_bytes: u64,
    /// Those who run and were let in out of their turn.
    on_trial: Trial,
    keys: HashMap<u64, u64>,
    drain: Drain,
    /// How much is shed, from 0 to 1, and why.
    shed: f64,
    shed_for: RejectReason,
    /// What of a refusal was carried over, by priority.
    carried: [f64; Priority::ALL.len()],
    /// Whether somebody waits who would not fit either if those who were let in just now had not
    /// been: for want of memory, and not of processors.
    is_short: bool,
}

/// A request that is counted by itself.
pub(crate) struct Large {
    priority: Priority,
    key: Option<u64>,
    began: u64,
    learned: Arc<Learned>,
    has_answered: AtomicBool,
    cancelled: AtomicBool,
    run: Mutex<Run>,
}

struct Run {
    place: usize,
    /// What its handler allocates in; none before that runs.
    scope: Option<MemoryScope>,
    ages: Ages,
    /// What it may come to hold, as long as it holds nothing.
    spread: Option<Spread>,
    /// What it is taken to hold at most, and what it held when somebody looked last.
    expected: u64,
    live: u64,
    /// What it counts for among those on trial, if it is.
    trial: Option<Trial>,
    /// Whether others of its kind wait for what it shows.
    is_untold: bool,
    waker: Option<Waker>,
}

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

/// How fast large requests give back what was reserved for them, in bytes per second.
#[derive(Default)]
struct Drain {
    rate: f64,
    at: u64,
}

// === impl Ledger ===

impl Ledger {
    pub(super) fn new(clock: Clock, meter: Box<dyn Meter>) -> Self {
        let ledger = Self {
            clock,
            config: RwLock::default(),
            version: AtomicU32::new(1),
            idle: AtomicBool::new(true),
            sheds: AtomicBool::new(false),
            enforces: AtomicBool::new(false),
            line: AtomicU64::new(0),
            small: AtomicU64::new(0),
            chunk: AtomicU8::new(0),
            stripes: Default::default(),
            closed: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            looked: AtomicU64::new(0),
            counts: Counts::default(),
            book: Mutex::new(Book {
                meter,
                read: None,
                used: None,
                growth: Growth::default(),
                held: 0,
                reuse: Reuse::new(),
                blind: 0,
                large: Vec::new(),
                free: Vec::new(),
                running: 0,
                lanes: Default::default(),
                untried: VecDeque::new(),
                waiting_bytes: 0,
                on_trial: Trial::default(),
                keys: HashMap::new(),
                drain: Drain::default(),
                shed: 0.0,
                shed_for: RejectReason::MemoryPressure,
                carried: [0.0; Priority::ALL.len()],
                is_short: false,
            }),
        };
        ledger.set_line(None);
        ledger
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Book> {
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
        self.set_idle(&held);
        drop(held);
        // Whoever waits may not have to any more.
        self.tick();
    }

    /// With the lock of the configuration held for writing, so that the last who changes either knows both.
    fn set_idle(&self, config: &AdmissionConfig) {
        let refuses = self.line().is_some() || self.sheds.load(Relaxed);
        let idle = config.mode == AdmissionMode::Off || !refuses;
        self.idle.store(idle, Relaxed);
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
        if self.line.swap(word, Relaxed) == word {
            return;
        }
        // A permit has so much room for it.
        self.small
            .store((word / SMALL).min(u32::MAX.into()), Relaxed);
        let bits = u64::BITS - (word / CHUNK).leading_zeros().max(1);
        self.chunk.store(bits as u8, Relaxed);
        let config = self.config.write().unwrap_or_else(PoisonError::into_inner);
        self.set_idle(&config);
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

    /// Sheds so much, from 0 to 1, and why.
    pub(super) fn set_shed(&self, share: f64, reason: RejectReason) {
        let mut book = self.lock();
        (book.shed, book.shed_for) = (share, reason);
        drop(book);
        if self.sheds.swap(share > 0.0, Relaxed) != (share > 0.0) {
            let config = self.config.write().unwrap_or_else(PoisonError::into_inner);
            self.set_idle(&config);
        }
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

    /// What somebody is taken to hold at most. What it says of its body counts where nobody counts, or
    /// none of its size has ended yet: those after it may be streamed, and never be held as a whole.
    fn wanted(&self, asking: &Asking<'_>) -> u64 {
        let held = match (asking.is_counted, asking.learned.expected()) {
            (true, Some(expected)) => expected,
            (true, None) => {
                let guess = self.guess();
                guess.max(asking.declared.min(guess.saturating_mul(ANNOUNCED)))
            }
            (false, _) => asking.declared,
        };
        held.min(MOST)
    }

    pub(super) fn guess(&self) -> u64 {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner);
        let line = self.line.load(Relaxed);
        config.guess.unwrap_or(line / GUESS).min(MOST)
    }

    /// Lets somebody in, or has it wait.
    #[cold]
    pub(super) fn admit(&self, asking: &Asking<'_>) -> Answer {
        untracked(|| self.admit_slowly(asking))
    }

    fn admit_slowly(&self, asking: &Asking<'_>) -> Answer {
        let Standing::Asks(priority) = asking.standing else {
            return Answer::In(Hold::Nothing);
        };
        let enforces = self.enforces.load(Relaxed);
        let want = self.wanted(asking);
        let now = self.clock.ticks();
        let mut book = self.lock();
        if book.sheds(priority) {
            self.counts.shed(enforces);
            if enforces {
                let wait = book.drain.retry_after(book.waiting_bytes + want, now);
                return Answer::Refused(refusal(book.shed_for, asking.name, wait));
            }
        }
        let is_small = self.is_small(want);
        if let Some(key) = asking.key
            && !is_small
            && self.exceeds_share(&book, key, want)
        {
            self.counts.over_share(enforces);
            if enforces {
                let wait = book.drain.retry_after(want, now);
                return Answer::Refused(refusal(RejectReason::ShareExceeded, asking.name, wait));
            }
        }
        self.read_if_stale(&mut book, now);
        let lane = self.lane(want, priority);
        let is_first = book.lanes[..=lane].iter().all(VecDeque::is_empty);
        let fits = self.fits(&book, want, Some(asking.learned));
        self.set_closed(&book);
        if is_first && !fits {
            book.is_short = self.is_short(&book, want);
        }
        let comes = fits || self.may_come_alone(&book, want);
        let may_be_tried = asking.is_counted && !is_small && asking.learned.expected().is_none();
        let trial = match is_first && comes {
            false if may_be_tried => self.trial(&book, asking, want),
            _ => None,
        };
        if (is_first && comes) || trial.is_some() || !enforces {
            if !fits && trial.is_none() {
                self.counts.would_wait();
            }
            return Answer::In(self.enter(&mut book, asking, priority, want, trial, now));
        }
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner);
        if self.waiting.load(Relaxed) >= config.max_waiting || config.queue_timeout.is_zero() {
            self.counts.queue_full();
            let wait = book.drain.retry_after(book.waiting_bytes + want, now);
            return Answer::Refused(refusal(RejectReason::MemoryPressure, asking.name, wait));
        }
        // Or those who wait would come to more than their share when they are let in.
        let charged = asking
            .key
            .filter(|_| asking.is_counted && !is_small)
            .map(|key| book.key(key, config.max_keys));
        book.charge(charged, want);
        let waiter = Arc::new(Waiter::new(asking, priority, want, charged));
        book.lanes[lane].push_back(waiter.clone());
        if may_be_tried {
            book.try_out(&waiter);
        }
        book.waiting_bytes += want;
        self.waiting.fetch_add(1, Relaxed);
        self.counts.waited();
        // Whoever waits is what it was set for.
        self.set_closed(&book);
        Answer::Wait(waiter, config.queue_timeout)
    }

    fn lane(&self, want: u64, priority: Priority) -> usize {
        let large = usize::from(!self.is_small(want)) * Priority::ALL.len();
        large + priority as usize
    }

    /// Whether there is room for so much more.
    fn fits(&self, book: &Book, want: u64, learned: Option<&Learned>) -> bool {
        // What nobody knows refuses nobody.
        let (Some(used), Some(line)) = (book.used, self.line()) else {
            return true;
        };
        let is_small = self.is_small(want);
        let for_large = line - line / FOR_SMALL;
        let (line, growth) = if is_small {
            // One that was let in alone may want more than there is, which must not keep them out.
            let room = for_large.saturating_sub(used.now());
            (line, book.growth.total().min(room) + want)
        } else {
            let spread =
                learned.map_or_else(|| Spread::certain(want), |learned| learned.spread(want));
            (for_large, book.growth.with(&spread).total())
        };
        used.with(growth + self.reserved_for_small()) <= line
    }

    /// Whether a large one may come though there is no room for it, since no other runs that holds much.
    fn may_come_alone(&self, book: &Book, want: u64) -> bool {
        let (Some(used), Some(line)) = (book.used, self.line()) else {
            return true;
        };
        let others = book.held + book.growth.total();
        let is_alone = book.running == 0 || others <= line / ALONE;
        !self.is_small(want) && is_alone && used.now() <= line - line / FOR_SMALL
    }

    /// What one counts for that may come out of its turn, since nothing was known of those like it when
    /// it came, and nothing is, or that they hold little.
    fn trial(&self, book: &Book, asking: &Asking<'_>, want: u64) -> Option<Trial> {
        let (Some(used), Some(line)) = (book.used, self.line()) else {
            return None;
        };
        let most = trial::most(line);
        let learned = asking.learned;
        let reserved = match learned.expected() {
            Some(known) => known,
            // Another one is about to tell, or has told that it is heavy.
            None if learned.is_untold() || learned.most_running() > most => return None,
            // One that says of itself that it may hold more is none to try.
            None => most.max(asking.declared).min(want),
        };
        if reserved > most || book.small_ones_wait() || book.shed > 0.0 {
            return None;
        }
        let trial = Trial {
            reserved,
            risked: want,
        };
        let all = book.on_trial.with(&trial, line)?;
        // As for small ones: what large ones may come to hold besides that is not theirs.
        let room = (line - line / FOR_SMALL).saturating_sub(used.now());
        let growth = book.growth.total().min(room) + self.reserved_for_small();
        let has_room = used.with(growth + all.reserved) <= line && used.with(all.risked) <= line;
        has_room.then_some(trial)
    }

    fn is_short(&self, book: &Book, want: u64) -> bool {
        let taken = book.used.unwrap_or_default();
        let taken = taken.with(book.growth.of_begun() + want);
        self.line().is_some_and(|line| taken > line)
    }

    /// Has small ones ask whenever one might not fit, or has to wait for others.
    fn set_closed(&self, book: &Book) {
        let small = self.small.load(Relaxed);
        let closed = book.small_ones_wait() || book.shed > 0.0 || !self.fits(book, small, None);
        self.closed.store(closed, Relaxed);
    }

    fn exceeds_share(&self, book: &Book, key: u64, want: u64) -> bool {
        let Some(line) = self.line() else {
            return false;
        };
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner);
        let share = (line as f64 * config.max_share) as u64;
        match book.keys.get(&book.key(key, config.max_keys)) {
            // It alone is not its share's fault.
            None | Some(0) => false,
            Some(held) => held + want > share,
        }
    }

    fn enter(
        &self,
        book: &mut Book,
        asking: &Asking<'_>,
        priority: Priority,
        want: u64,
        trial: Option<Trial>,
        now: u64,
    ) -> Hold {
        self.counts.admitted();
        if !asking.is_counted {
            return Hold::Nothing;
        }
        if trial.is_some() {
            self.counts.tried();
        }
        let want = trial.map_or(want, |trial| trial.reserved);
        if self.is_small(want) {
            let stripe = stripe::current() % STRIPES;
            self.stripes[stripe].0.fetch_add(want as i64, Relaxed);
            return Hold::small(stripe, asking.class, want as i64);
        }
        let max_keys = self
            .config
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .max_keys;
        let key = asking.key.map(|key| book.key(key, max_keys));
        Hold::Large(book.add(asking.learned, priority, key, want, trial, now))
    }

    /// Has one that was let in as a small one counted by itself, since it has grown.
    #[cold]
    pub(super) fn promote(
        &self,
        learned: &Arc<Learned>,
        priority: Priority,
        scope: &MemoryScope,
        age: u64,
    ) -> Hold {
        untracked(|| {
            let began = self.clock.ticks().saturating_sub(age);
            let mut book = self.lock();
            let live = scope.usage().live;
            let large = book.add(learned, priority, None, live, None, began);
            large.run().ages = Ages::since(age, live);
            large.runs(scope.clone());
            Hold::Large(large)
        })
    }

    /// A large one has ended.
    #[cold]
    pub(super) fn release(&self, large: &Large, peak: Option<u64>) {
        // What it makes room for is not of the request around this one, if there is one.
        untracked(|| self.release_slowly(large, peak));
    }

    fn release_slowly(&self, large: &Large, peak: Option<u64>) {
        let now = self.clock.ticks();
        if let Some(peak) = peak {
            // First, for those who wait are let in by it.
            let ages = large.run().ages;
            let (quantile, guess) = (self.quantile(), self.guess());
            large.learned.record(peak, 1, quantile, Some(&ages), guess);
        }
        let mut book = self.lock();
        let mut run = large.run();
        let reserved = run.expected;
        // Whoever has the scope last ends it, which must not be us.
        run.scope = None;
        book.remove(&run, large);
        drop(run);
        book.drain.add(reserved, now);
        let woken = match self.waiting.load(Relaxed) {
            0 => Vec::new(),
            _ => self.let_in(&mut book, now),
        };
        drop(book);
        woken.into_iter().for_each(Waker::wake);
    }

    pub(super) fn quantile(&self) -> f64 {
        let config = self.config.read();
        config.unwrap_or_else(PoisonError::into_inner).quantile
    }

    /// Looks at what is used, and lets in who fits now. Called now and then, and by those who wait.
    pub(super) fn tick(&self) {
        let now = self.clock.ticks();
        let woken = untracked(|| {
            let mut book = self.lock();
            self.let_in(&mut book, now)
        });
        woken.into_iter().for_each(Waker::wake);
    }

    /// The same for one who waits, and need not look if another just has. Or they would do nothing
    /// else when they are many.
    pub(super) fn tick_if_nobody_has(&self) {
        let looked = self.looked.load(Relaxed);
        if self.clock.ticks().saturating_sub(looked) >= FRESH {
            self.tick();
        }
    }

    fn let_in(&self, book: &mut Book, now: u64) -> Vec<Waker> {
        self.looked.store(now, Relaxed);
        self.read_if_stale(book, now);
        let enforces = self.enforces.load(Relaxed);
        let mut woken = Vec::new();
        book.is_short = false;
        'lanes: for lane in 0..LANES {
            while let Some(waiter) = book.lanes[lane].front().cloned() {
                if !waiter.waits() {
                    book.lanes[lane].pop_front();
                    continue;
                }
                // It may be known better by now.
                let asking = waiter.asking();
                let want = self.wanted(&asking);
                if lane < Priority::ALL.len() && !self.is_small(want) {
                    // Or it would keep those out that still are.
                    book.lanes[lane].pop_front();
                    book.lanes[self.lane(want, waiter.priority)].push_back(waiter);
                    continue;
                }
                if enforces && !self.fits(book, want, Some(asking.learned)) {
                    book.is_short = self.is_short(book, want);
                    if !self.may_come_alone(book, want) {
                        break 'lanes;
                    }
                }
                book.lanes[lane].pop_front();
                self.let_one_in(book, &waiter, want, None, now, &mut woken);
            }
        }
        self.let_in_on_trial(book, now, &mut woken);
        self.set_closed(book);
        woken
    }

    /// Lets those in, out of their turn, who may come on trial.
    fn let_in_on_trial(&self, book: &mut Book, now: u64, woken: &mut Vec<Waker>) {
        let most = self.line().map_or(u64::MAX, trial::most);
        for _ in 0..book.untried.len() {
            let Some(waiter) = book.untried.pop_front() else {
                break;
            };
            if !waiter.waits() {
                continue;
            }
            let asking = waiter.asking();
            let want = self.wanted(&asking);
            match self.trial(book, &asking, want) {
                Some(trial) => self.let_one_in(book, &waiter, want, Some(trial), now, woken),
                // Those like it are known to hold much.
                None if asking.learned.expected().is_some_and(|known| known > most) => {}
                None => book.untried.push_back(waiter),
            }
        }
        book.forget_gone(self.waiting.load(Relaxed));
    }

    fn let_one_in(
        &self,
        book: &mut Book,
        waiter: &Waiter,
        want: u64,
        trial: Option<Trial>,
        now: u64,
        woken: &mut Vec<Waker>,
    ) {
        let hold = self.enter(book, &waiter.asking(), waiter.priority, want, trial, now);
        match waiter.let_in(hold) {
            Ok(waker) => {
                self.stops_waiting(book, waiter);
                woken.extend(waker);
            }
            Err(hold) => self.undo(book, hold),
        }
    }

    /// Gives back what somebody got who was gone.
    fn undo(&self, book: &mut Book, hold: Hold) {
        match hold {
            Hold::Nothing => {}
            Hold::Small { stripe, bytes, .. } => self.release_small(stripe.into(), bytes.into()),
            Hold::Large(large) => book.remove(&large.run(), &large),
        }
    }

    fn stops_waiting(&self, book: &mut Book, waiter: &Waiter) {
        book.waiting_bytes = book.waiting_bytes.saturating_sub(waiter.want);
        book.uncharge(waiter.charged, waiter.want);
        self.waiting.fetch_sub(1, Relaxed);
    }

    /// Somebody does not wait any longer, and did not get in.
    pub(super) fn gave_up(&self, waiter: &Waiter) {
        let mut book = self.lock();
        self.stops_waiting(&mut book, waiter);
        let waiting = self.waiting.load(Relaxed);
        book.forget_gone(waiting);
        drop(book);
        self.tick();
    }

    pub(super) fn timed_out(&self, waiter: &Waiter) -> Rejected {
        self.counts.timed_out();
        let book = self.lock();
        let bytes = book.waiting_bytes.max(waiter.want);
        let wait = book.drain.retry_after(bytes, self.clock.ticks());
        refusal(RejectReason::MemoryPressure, waiter.name, wait)
    }

    fn read_if_stale(&self, book: &mut Book, now: u64) {
        let Some(line) = self.line() else {
            return;
        };
        if let Some((at, took)) = book.read {
            let used = book.used.unwrap_or_default().with(book.growth.total());
            let is_roomy = used <= line - line / ROOMY && self.waiting.load(Relaxed) == 0;
            let fresh = if is_roomy { FRESH_IF_ROOMY } else { FRESH };
            if now.saturating_sub(at) < fresh.max(READING_SHARE * took.min(SLOW_READING)) {
                return;
            }
        }
        // The time that it waited for the lock is none of it.
        let began = self.clock.ticks();
        book.read(self.guess(), line, now);
        let took = self.clock.ticks().saturating_sub(began);
        book.read = Some((now, took));
    }

    pub(super) fn cancel_largest(&self, ask: &CancelAsk) -> Cancelled {
        let book = self.lock();
        let running: Vec<_> = book
            .large
            .iter()
            .flatten()
            .filter(|large| !large.is_cancelled())
            .filter_map(|large| {
                let used = large.run().scope.as_ref()?.usage().live;
                let weight = large.priority.weight();
                Some((large.clone(), Victim { used, weight }))
            })
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
            growth: book.growth.total(),
            on_trial: book.on_trial.reserved,
            reserved_for_small: self.reserved_for_small(),
            running: book.running,
            held: book.held,
            waiting: self.waiting.load(Relaxed),
            // Whoever was short of it may be in by now, or gone.
            is_short: book.is_short && self.waiting.load(Relaxed) > 0,
            drain: book.drain.rate_at(now) as u64,
            shed: book.shed,
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

// === impl Book ===

impl Book {
    fn add(
        &mut self,
        learned: &Arc<Learned>,
        priority: Priority,
        key: Option<u64>,
        want: u64,
        trial: Option<Trial>,
        began: u64,
    ) -> Arc<Large> {
        let place = self.free.pop().unwrap_or_else(|| {
            self.large.push(None);
            self.large.len() - 1
        });
        let spread = learned.spread(want);
        self.growth.add_fresh(&spread);
        if let Some(trial) = &trial {
            self.on_trial.add(trial);
        }
        learned.begins();
        let large = Arc::new(Large {
            priority,
            key,
            began,
            learned: learned.clone(),
            has_answered: AtomicBool::new(false),
            cancelled: AtomicBool::new(false),
            run: Mutex::new(Run {
                place,
                scope: None,
                ages: Ages::default(),
                spread: Some(spread),
                expected: want,
                live: 0,
                trial,
                is_untold: true,
                waker: None,
            }),
        });
        self.large[place] = Some(large.clone());
        self.running += 1;
        self.charge(key, want);
        large
    }

    fn remove(&mut self, run: &Run, large: &Large) {
        if self.large[run.place].take().is_none() {
            return;
        }
        self.free.push(run.place);
        self.running -= 1;
        match &run.spread {
            Some(spread) => self.growth.end_fresh(spread),
            None => self.growth.end_begun(run.expected - run.live),
        }
        if let Some(trial) = &run.trial {
            self.on_trial.end(trial);
        }
        if run.is_untold {
            large.learned.has_told();
        }
        self.uncharge(large.key, run.expected);
    }

    fn small_ones_wait(&self) -> bool {
        let small = &self.lanes[..Priority::ALL.len()];
        small.iter().any(|lane| !lane.is_empty())
    }

    /// Those who do not wait any longer leave their lane when they come to the front, or when they are
    /// too many.
    fn forget_gone(&mut self, waiting: usize) {
        for lane in &mut self.lanes {
            while lane.front().is_some_and(|waiter| !waiter.waits()) {
                lane.pop_front();
            }
            if lane.len() > 2 * waiting + 16 {
                lane.retain(|waiter| waiter.waits());
            }
        }
    }

    /// One waits of whose kind nothing is known.
    fn try_out(&mut self, waiter: &Arc<Waiter>) {
        if self.untried.len() < MOST_UNTRIED {
            self.untried.push_back(waiter.clone());
        }
    }

    fn charge(&mut self, key: Option<u64>, bytes: u64) {
        if let Some(key) = key {
            *self.keys.entry(key).or_default() += bytes;
        }
    }

    fn uncharge(&mut self, key: Option<u64>, bytes: u64) {
        let Some(key) = key else {
            return;
        };
        if let Some(held) = self.keys.get_mut(&key) {
            *held = held.saturating_sub(bytes);
            if *held == 0 {
                self.keys.remove(&key);
            }
        }
    }

    /// The key that counts for one: itself, as long as there are not too many.
    fn key(&self, key: u64, max: usize) -> u64 {
        match self.keys.contains_key(&key) || self.keys.len() < max {
            true => key,
            false => 0,
        }
    }

    /// Reads what is used, and what those who run may still grow by.
    fn read(&mut self, guess: u64, line: u64, now: u64) {
        // Those who run first: what they get meanwhile counts twice, rather than not at all.
        let (mut growth, mut held) = (Growth::default(), 0);
        let mut on_trial = Trial::default();
        let keys = &mut self.keys;
        for large in self.large.iter().flatten() {
            let mut run = large.run();
            let before = run.expected;
            run.look(large, now.saturating_sub(large.began), guess, line);
            held += run.live;
            if let Some(trial) = &run.trial {
                on_trial.add(trial);
            }
            match &run.spread {
                Some(spread) => growth.add_fresh(spread),
                None => growth.add_begun(run.expected - run.live),
            }
            if let Some(charged) = large.key.and_then(|key| keys.get_mut(&key)) {
                *charged = (*charged + run.expected).saturating_sub(before);
            }
        }
        self.growth = growth;
        self.held = held;
        self.on_trial = on_trial;
        let used = self.meter.used().map(|used| used.min(MOST_USED));
        if used.is_none() && self.used.is_some() && self.blind < MOST_BLIND {
            // What was known a moment ago counts for a while.
            self.blind += 1;
            return;
        }
        self.blind = 0;
        let tracked = self.meter.tracked().map(|bytes| bytes.min(MOST_USED));
        self.used = used.map(|used| match tracked {
            Some(tracked) => self.reuse.look(used, tracked, line, now),
            None => Usage::untracked(used),
        });
    }

    /// Whether the next one of a priority is refused. The share of those that are follows what is shed.
    fn sheds(&mut self, priority: Priority) -> bool {
        let carried = &mut self.carried[priority as usize];
        *carried += priority.shed(self.shed);
        let sheds = *carried >= 1.0;
        if sheds {
            *carried -= 1.0;
        }
        sheds
    }
}

// === impl Large ===

impl Large {
    fn run(&self) -> MutexGuard<'_, Run> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its handler runs, in this scope.
    pub(super) fn runs(&self, scope: MemoryScope) {
        self.run().scope = Some(scope);
    }

    /// Its handler waits.
    pub(super) fn waits(&self, waker: &Waker) {
        let mut run = self.run();
        if let Some(scope) = &run.scope {
            let live = scope.usage().live;
            run.ages.waits(live);
        }
        let held = run.waker.as_ref();
        let is_noted = held.is_some_and(|held| held.will_wake(waker));
        drop(run);
        if !is_noted {
            // Cloned and dropped without the lock: that calls whomever it is of.
            let waker = waker.clone();
            let before = self.run().waker.replace(waker);
            drop(before);
        }
        // It was polled when it was cancelled, and the waker was not here yet.
        if self.is_cancelled() {
            waker.wake_by_ref();
        }
    }

    /// Its response has begun.
    pub(super) fn answers(&self) {
        self.has_answered.store(true, Relaxed);
    }

    fn has_answered(&self) -> bool {
        self.has_answered.load(Relaxed)
    }

    #[inline]
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Relaxed)
    }

    fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
        let waker = self.run().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Run {
    fn look(&mut self, large: &Large, age: u64, guess: u64, line: u64) {
        let Some(scope) = &self.scope else {
            return;
        };
        let learned = &large.learned;
        self.live = scope.usage().live;
        self.ages.note(age, self.live);
        learned.saw(self.live);
        let shows = Shows::of(age, self.live, large.has_answered(), line);
        if shows != Shows::Nothing && mem::take(&mut self.is_untold) {
            learned.has_told();
        }
        if shows == Shows::Heavy {
            // From now on it is as all others.
            self.trial = None;
        }
        // Of those that never end nothing is learned.
        let guess = guess >> (age / GUESS_HALVES).min(63);
        let hoped = match shows {
            Shows::Light => 0,
            Shows::Nothing | Shows::Waits if self.trial.is_some() => guess.min(trial::most(line)),
            _ => guess,
        };
        self.expected = learned.expected_of(&self.ages, self.live, hoped);
        match &mut self.spread {
            Some(_) if self.live >= BEGUN => self.spread = None,
            Some(spread) => spread.cap(learned.expected().unwrap_or(hoped)),
            None => {}
        }
        if let Some(trial) = &mut self.trial {
            *trial = match shows {
                Shows::Nothing => Trial {
                    reserved: self.expected - self.live,
                    risked: learned
                        .expected()
                        .unwrap_or(guess)
                        .saturating_sub(self.live),
                },
                // It is taken to be what it shows, but for what it may do yet.
                Shows::Waits => Trial {
                    reserved: 0,
                    risked: learned
                        .expected()
                        .unwrap_or(guess)
                        .saturating_sub(self.live),
                },
                Shows::Light | Shows::Heavy => Trial {
                    reserved: 0,
                    risked: trial::most(line).saturating_sub(self.live),
                },
            };
        }
    }
}

// === impl Drain ===

impl Drain {
    fn add(&mut self, bytes: u64, now: u64) {
        // Each byte counts for as long as a rate does, so that they add up to it.
        let weight = std::f64::consts::LN_2 / HALF_LIFE;
        self.rate = self.rate_at(now) + bytes as f64 * weight;
        self.at = now;
    }

    fn rate_at(&self, now: u64) -> f64 {
        let passed = now.saturating_sub(self.at) as f64 / 1e9;
        self.rate * (-passed / HALF_LIFE).exp2()
    }

    /// How long it takes until so many bytes are given back: between one second and a minute.
    fn retry_after(&self, bytes: u64, now: u64) -> Duration {
        let rate = self.rate_at(now);
        // Before the first has ended nobody knows; after that, nothing being given back means to wait.
        let seconds = match self.at == 0 {
            true => 1.0,
            false => bytes as f64 / rate.max(1.0),
        };
        Duration::from_secs_f64(seconds.clamp(1.0, LONGEST_RETRY))
    }
}
