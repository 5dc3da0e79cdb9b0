//! The ledger of what is reserved, and the line that all of it has to stay under.

use super::{
    AdmissionConfig, AdmissionMode, Meter, Priority,
    drain::Drain,
    growth::Spread,
    lanes::{Lane, Lanes},
    learn::{Ages, Learned},
    permit::Hold,
    route::Standing,
    running::{Large, Newcomer, Running},
    shares::Shares,
    shed::{Scarce, Shed},
    stats::Counts,
    trial::{self, Trial},
    usage::{Reuse, Usage},
    wait::Waiter,
};
use crate::{
    BudgetMode,
    reclaim::{CancelAsk, Cancelled, choose_victims},
};
use plimsoll_alloc::{MemoryScope, untracked};
use plimsoll_core::{Clock, Name, RejectReason, Rejected, stripe};
use std::{
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

/// When those are told to come again who are refused for tasks or descriptors: it is seen within a second
/// that there are fewer.
const CROWDED_RETRY: Duration = Duration::from_secs(1);

/// How often in a row what is used may be unreadable before nothing is known of it.
const MOST_BLIND: u8 = 100;

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
    reuse: Reuse,
    /// How often in a row what is used could not be read.
    blind: u8,
    running: Running,
    lanes: Lanes,
    shares: Shares,
    drain: Drain,
    shed: Shed,
    /// Whether somebody waits who would not fit either if those who were let in just now had not
    /// been: for want of memory, and not of processors.
    is_short: bool,
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
                reuse: Reuse::new(),
                blind: 0,
                running: Running::default(),
                lanes: Lanes::default(),
                shares: Shares::default(),
                drain: Drain::default(),
                shed: Shed::NOTHING,
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

    /// Sheds so much, from 0 to 1, for want of something.
    pub(super) fn set_shed(&self, share: f64, of: Scarce) {
        self.lock().shed.set(share, of);
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
    fn wanted(&self, asking: &Asking<'_>, guess: impl FnOnce() -> u64) -> u64 {
        let held = match (asking.is_counted, asking.learned.expected()) {
            (true, Some(expected)) => expected,
            (true, None) => {
                let guess = guess();
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
        let want = self.wanted(asking, || self.guess());
        let now = self.clock.ticks();
        let mut book = self.lock();
        if book.shed.is_next(priority) {
            let of = book.shed.of;
            self.counts.shed(of, enforces);
            if enforces {
                let wait = match of {
                    Scarce::Memory => book.drain.retry_after(book.lanes.bytes() + want, now),
                    // How fast memory is given back tells nothing of these.
                    Scarce::Tasks | Scarce::Descriptors => CROWDED_RETRY,
                };
                return Answer::Refused(refusal(of.reason(), asking.name, wait));
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
        let lane = Lane::of(is_small, priority);
        let is_first = book.lanes.is_clear(lane);
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
            let wait = book.drain.retry_after(book.lanes.bytes() + want, now);
            return Answer::Refused(refusal(RejectReason::MemoryPressure, asking.name, wait));
        }
        // Or those who wait would come to more than their share when they are let in.
        let charged = asking
            .key
            .filter(|_| asking.is_counted && !is_small)
            .map(|key| book.shares.key(key, config.max_keys));
        book.shares.charge(charged, want);
        let waiter = Arc::new(Waiter::new(asking, priority, want, charged));
        book.lanes.push(&waiter, lane, may_be_tried);
        self.waiting.fetch_add(1, Relaxed);
        self.counts.waited();
        // Whoever waits is what it was set for.
        self.set_closed(&book);
        Answer::Wait(waiter, config.queue_timeout)
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
            (line, book.running.growth().total().min(room) + want)
        } else {
            let spread =
                learned.map_or_else(|| Spread::certain(want), |learned| learned.spread(want));
            (for_large, book.running.growth().with(&spread).total())
        };
        used.with(growth + self.reserved_for_small()) <= line
    }

    /// Whether a large one may come though there is no room for it, since no other runs that holds much.
    fn may_come_alone(&self, book: &Book, want: u64) -> bool {
        let (Some(used), Some(line)) = (book.used, self.line()) else {
            return true;
        };
        let others = book.running.held() + book.running.growth().total();
        let is_alone = book.running.count() == 0 || others <= line / ALONE;
        !self.is_small(want) && is_alone && used.now() <= line - line / FOR_SMALL
    }

    /// What one counts for that may come out of its turn, since nothing was known of those like it when
    /// it came, and nothing is, or that they hold little.
    fn trial(&self, book: &Book, asking: &Asking<'_>, want: u64) -> Option<Trial> {
        let most = trial::most(self.line()?);
        let learned = asking.learned;
        let reserved = match learned.expected() {
            Some(known) => known,
            // Another one is about to tell, or has told that it is heavy.
            None if learned.is_untold() || learned.most_running() > most => return None,
            // One that says of itself that it may hold more is none to try.
            None => most.max(asking.declared).min(want),
        };
        let trial = Trial {
            reserved,
            risked: want,
        };
        (reserved <= most && self.has_room_for(book, &trial)).then_some(trial)
    }

    /// Whether one more may come out of its turn that counts for so much.
    fn has_room_for(&self, book: &Book, trial: &Trial) -> bool {
        let (Some(used), Some(line)) = (book.used, self.line()) else {
            return false;
        };
        if book.lanes.small_ones_wait() || book.shed.share > 0.0 {
            return false;
        }
        let Some(all) = book.running.on_trial().with(trial, line) else {
            return false;
        };
        // As for small ones: what large ones may come to hold besides that is not theirs.
        let room = (line - line / FOR_SMALL).saturating_sub(used.now());
        let growth = book.running.growth().total().min(room) + self.reserved_for_small();
        used.with(growth + all.reserved) <= line && used.with(all.risked) <= line
    }

    fn is_short(&self, book: &Book, want: u64) -> bool {
        let taken = book.used.unwrap_or_default();
        let taken = taken.with(book.running.growth().of_begun() + want);
        self.line().is_some_and(|line| taken > line)
    }

    /// Has small ones ask whenever one might not fit, or has to wait for others.
    fn set_closed(&self, book: &Book) {
        let small = self.small.load(Relaxed);
        let closed =
            book.lanes.small_ones_wait() || book.shed.share > 0.0 || !self.fits(book, small, None);
        self.closed.store(closed, Relaxed);
    }

    fn exceeds_share(&self, book: &Book, key: u64, want: u64) -> bool {
        let Some(line) = self.line() else {
            return false;
        };
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner);
        let share = (line as f64 * config.max_share) as u64;
        match book.shares.held(book.shares.key(key, config.max_keys)) {
            // It alone is not its share's fault.
            0 => false,
            held => held + want > share,
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
        let key = asking.key.map(|key| book.shares.key(key, max_keys));
        book.shares.charge(key, want);
        Hold::Large(book.running.begin(Newcomer {
            learned: asking.learned,
            priority,
            key,
            want,
            trial,
            began: now,
            ages: Ages::default(),
        }))
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
            let large = book.running.begin(Newcomer {
                learned,
                priority,
                key: None,
                want: live,
                trial: None,
                began,
                ages: Ages::since(age, live),
            });
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
            large.learn(peak, self.quantile(), self.guess());
        }
        let mut book = self.lock();
        let reserved = book.end(large);
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
        let guess = self.guess();
        let mut woken = Vec::new();
        book.is_short = false;
        'lanes: for lane in Lane::all() {
            while let Some(waiter) = book.lanes.first(lane) {
                // It may be known better by now.
                let asking = waiter.asking();
                let want = self.wanted(&asking, || guess);
                if lane.is_for_small() && !self.is_small(want) {
                    // Or it would keep those out that still are.
                    let to = Lane::of(false, waiter.priority);
                    book.lanes.moves(lane, to);
                    continue;
                }
                if enforces && !self.fits(book, want, Some(asking.learned)) {
                    book.is_short = self.is_short(book, want);
                    if !self.may_come_alone(book, want) {
                        break 'lanes;
                    }
                }
                book.lanes.pop(lane);
                self.let_one_in(book, &waiter, want, None, now, &mut woken);
            }
        }
        self.let_in_on_trial(book, guess, now, &mut woken);
        book.lanes.forget_gone(self.waiting.load(Relaxed));
        self.set_closed(book);
        woken
    }

    /// Lets those in, out of their turn, who may come on trial.
    fn let_in_on_trial(&self, book: &mut Book, guess: u64, now: u64, woken: &mut Vec<Waker>) {
        // They may be many, and need not be looked at one by one where none may come.
        let least = Trial {
            reserved: 1,
            risked: 1,
        };
        if !self.has_room_for(book, &least) {
            return;
        }
        let most = self.line().map_or(u64::MAX, trial::most);
        for _ in 0..book.lanes.untried() {
            let Some(waiter) = book.lanes.next_untried() else {
                break;
            };
            if !waiter.waits() {
                continue;
            }
            let asking = waiter.asking();
            let want = self.wanted(&asking, || guess);
            match self.trial(book, &asking, want) {
                Some(trial) => self.let_one_in(book, &waiter, want, Some(trial), now, woken),
                // Those like it are known to hold much.
                None if asking.learned.expected().is_some_and(|known| known > most) => {}
                None => book.lanes.tries_later(waiter),
            }
        }
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
            Hold::Large(large) => {
                book.end(&large);
            }
        }
    }

    fn stops_waiting(&self, book: &mut Book, waiter: &Waiter) {
        book.lanes.leaves(waiter);
        book.shares.uncharge(waiter.charged, waiter.want);
        self.waiting.fetch_sub(1, Relaxed);
    }

    /// Somebody does not wait any longer, and did not get in.
    pub(super) fn gave_up(&self, waiter: &Waiter) {
        let mut book = self.lock();
        self.stops_waiting(&mut book, waiter);
        let waiting = self.waiting.load(Relaxed);
        book.lanes.forget_gone(waiting);
        drop(book);
        self.tick();
    }

    pub(super) fn timed_out(&self, waiter: &Waiter) -> Rejected {
        self.counts.timed_out();
        let book = self.lock();
        let bytes = book.lanes.bytes().max(waiter.want);
        let wait = book.drain.retry_after(bytes, self.clock.ticks());
        refusal(RejectReason::MemoryPressure, waiter.name, wait)
    }

    fn read_if_stale(&self, book: &mut Book, now: u64) {
        let Some(line) = self.line() else {
            return;
        };
        if let Some((at, took)) = book.read {
            let used = book
                .used
                .unwrap_or_default()
                .with(book.running.growth().total());
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

// === impl Book ===

impl Book {
    /// One of those who run has ended. Says what was reserved for it.
    fn end(&mut self, large: &Large) -> u64 {
        let reserved = self.running.end(large);
        self.shares.uncharge(large.key(), reserved);
        reserved
    }

    /// Reads what is used, and what those who run may still grow by.
    fn read(&mut self, guess: u64, line: u64, now: u64) {
        // Those who run first: what they get meanwhile counts twice, rather than not at all.
        self.running.look(&mut self.shares, guess, line, now);
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
}

#[cfg(test)]
mod tests;
