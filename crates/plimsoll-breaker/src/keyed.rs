//! One breaker for each key: a host, a tenant, a shard.

use crate::{
    CircuitBreaker, CircuitBreakerConfig, ConfigError, HistoryConfig, Observer, Reason, State,
    breaker::Member, event::TooManyObservers, machine::NEVER, nanos, sync::Mutex,
};
use plimsoll_core::{
    Bounded, BoxFuture, Clock, CloseReport, Holding, Name, RemovalReason, Removed, Step, Totals,
    Usage, settings,
};
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Parts of the map that are locked on their own.
const SHARDS: usize = 16;
/// How many places are looked at for one new key, at most: some 100 µs.
const LOOKS: usize = 500;
/// How long nothing is looked for after nothing was found that could be forgotten.
const FULL_FOR: u64 = 1_000_000_000;

/// What becomes of a call whose key finds no place.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Overflow {
    /// All such calls share one breaker.
    #[default]
    Shared,
    /// They pass without a breaker.
    Pass,
    /// They are refused.
    Reject,
}

/// How [`KeyedBreakers`] are made and how many there may be.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyedConfig {
    pub(crate) breaker: CircuitBreakerConfig,
    pub(crate) max_keys: usize,
    pub(crate) idle: Duration,
    pub(crate) max_key_bytes: usize,
    pub(crate) overflow: Overflow,
}

impl Default for KeyedConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl KeyedConfig {
    /// 10 000 keys at most, forgotten when they were idle for 10 minutes, with the default
    /// configuration of a breaker, but without histories.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            breaker: CircuitBreakerConfig::new().history(HistoryConfig::disabled()),
            max_keys: 10_000,
            idle: Duration::from_secs(600),
            max_key_bytes: 256,
            overflow: Overflow::Shared,
        }
    }

    /// The configuration of each breaker. Mind the memory: a history is kept for each key.
    #[must_use]
    pub const fn breaker(mut self, config: CircuitBreakerConfig) -> Self {
        self.breaker = config;
        self
    }

    /// The most keys, 1 to 1 000 000. 10 000 by default. About 1.2 KiB each, with the key.
    #[must_use]
    pub const fn max_keys(mut self, keys: usize) -> Self {
        self.max_keys = keys;
        self
    }

    /// How long a key may be idle before it is forgotten, 1 second to 7 days. 10 minutes by
    /// default. One whose circuit is not closed is kept longer.
    #[must_use]
    pub const fn idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// The longest key, 1 to 65 536 bytes. 256 by default. A longer one finds no place.
    #[must_use]
    pub const fn max_key_bytes(mut self, bytes: usize) -> Self {
        self.max_key_bytes = bytes;
        self
    }

    /// What becomes of calls whose key finds no place. They share a breaker by default.
    #[must_use]
    pub const fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// Checks every value.
    ///
    /// # Errors
    ///
    /// Names each value that is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        settings::check(self)
    }
}

/// A circuit breaker for each key, as many as there may be.
///
/// Cloning it gives another handle to the same breakers. Register it, so that idle keys are
/// forgotten.
///
/// # The bound
///
/// A new key takes the place of one that would not be missed: the oldest whose breaker is as good
/// as new; else one that is closed and was not asked for lately. A breaker that is open is never
/// forgotten before its wait is over, nor one that was set by hand or has probes in flight. If
/// there is no place, the key gets the [`Overflow`], which is counted.
///
/// A key that is forgotten takes nothing with it but what its window knew; calls in flight end as
/// they would, and decide nothing.
#[derive(Clone)]
pub struct KeyedBreakers(Arc<Keyed>);

pub(crate) struct Keyed {
    name: Name,
    config: KeyedConfig,
    clock: Clock,
    shards: [RwLock<Shard>; SHARDS],
    /// Who goes first. Held while the map is changed, so that its lock comes before a shard's.
    order: Mutex<Order>,
    /// For keys without a place.
    overflow: CircuitBreaker,
    /// Those of every breaker. Its lock is taken under that of the order.
    observers: Mutex<Vec<Arc<dyn Observer>>>,
    overflowed: AtomicU64,
    /// Bytes of all breakers.
    breaker_bytes: Arc<AtomicI64>,
}

type Shard = HashMap<Arc<str>, Entry>;

struct Entry {
    breaker: CircuitBreaker,
    /// Tells it from an earlier entry of the same key.
    number: u64,
    /// Whether it was asked for since somebody looked.
    touched: AtomicBool,
    /// When somebody looked and it had been asked for, in ticks.
    used: AtomicU64,
}

#[derive(Default)]
struct Order {
    /// Keys that were as good as new when somebody looked, oldest first, and the others.
    fresh: VecDeque<Place>,
    used: VecDeque<Place>,
    entries: usize,
    /// Of all places: the text lives as long as they do.
    key_bytes: usize,
    next: u64,
    /// Nothing can be forgotten before this, in ticks.
    full_until: u64,
    /// How many looks in a row found nothing that could be forgotten, and until when the first of
    /// those is kept.
    in_vain: usize,
    kept_until: u64,
    /// How many places of each queue this round of the sweep has not come to.
    to_sweep: (usize, usize),
    inserted: u64,
    removed: Removed,
    closed: bool,
}

struct Place {
    number: u64,
    key: Arc<str>,
}

/// What is known of an entry.
struct Known {
    /// Whether it was asked for since somebody looked before.
    touched: bool,
    used: u64,
    worth: Worth,
}

/// What an entry is worth.
enum Worth {
    /// As good as new.
    Nothing,
    /// Closed.
    Little,
    /// Must be kept, at least until this time.
    Kept(u64),
}

impl KeyedBreakers {
    /// Makes the breakers, of which there is none yet. `name` is what they are registered, shown
    /// and measured by, and the source of their refusals.
    ///
    /// # Errors
    ///
    /// Names each value of the configuration that is out of its range.
    pub fn new(name: impl Into<Name>, config: KeyedConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let (name, clock) = (name.into(), Clock::new());
        let breaker_bytes = Arc::new(AtomicI64::new(0));
        let member = Member {
            key: None,
            clock: Some(clock.clone()),
            bytes: Some(breaker_bytes.clone()),
            state: match config.overflow {
                Overflow::Shared => None,
                Overflow::Pass => Some((State::Disabled, Reason::NoPlace)),
                Overflow::Reject => Some((State::ForcedOpen, Reason::NoPlace)),
            },
        };
        config.breaker.warn(name);
        let overflow = CircuitBreaker::of_checked(name, &config.breaker, member);
        Ok(Self(Arc::new(Keyed {
            name,
            config,
            clock,
            shards: std::array::from_fn(|_| RwLock::default()),
            order: Mutex::new(Order {
                kept_until: NEVER,
                ..Order::default()
            }),
            overflow,
            observers: Mutex::default(),
            overflowed: AtomicU64::new(0),
            breaker_bytes,
        })))
    }

    pub(crate) fn downgrade(&self) -> Weak<Keyed> {
        Arc::downgrade(&self.0)
    }

    pub(crate) fn upgrade(keyed: &Weak<Keyed>) -> Option<Self> {
        keyed.upgrade().map(Self)
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> Name {
        self.0.name
    }

    /// The breaker of `key`, made if there is none and there is a place, or the one for keys
    /// without a place.
    #[must_use]
    pub fn get(&self, key: &str) -> CircuitBreaker {
        match self.find(key) {
            Some(breaker) => breaker,
            None => self.0.insert(key),
        }
    }

    /// The breaker of `key`, if there is one.
    #[must_use]
    pub fn find(&self, key: &str) -> Option<CircuitBreaker> {
        let shard = self.0.shard(key);
        let entry = shard.get(key)?;
        // Most often it is set already, and the line stays shared.
        if !entry.touched.load(Relaxed) {
            entry.touched.store(true, Relaxed);
        }
        Some(entry.breaker.clone())
    }

    /// Forgets a key, whatever its breaker does. Says whether it was there.
    #[allow(clippy::must_use_candidate, reason = "most want the effect alone")]
    pub fn remove(&self, key: &str) -> bool {
        let mut order = self.0.order.lock();
        let removed = self.0.remove(&mut order, key, RemovalReason::Manual);
        self.0.tidy_if_due(&mut order);
        drop(order);
        removed.is_some()
    }

    /// Every breaker, in no order. The one for keys without a place is not among them.
    #[must_use]
    pub fn list(&self) -> Vec<CircuitBreaker> {
        let mut breakers = Vec::new();
        for shard in &self.0.shards {
            let shard = read(shard);
            breakers.extend(shard.values().map(|entry| entry.breaker.clone()));
        }
        breakers
    }

    /// Has `observer` told of every event of every key, as one
    /// [of a breaker](CircuitBreaker::observe) is.
    ///
    /// # Errors
    ///
    /// There are at most 16 observers. A key whose breaker was given 16 of its own goes without.
    pub fn observe(&self, observer: impl Observer) -> Result<(), TooManyObservers> {
        let observer: Arc<dyn Observer> = Arc::new(observer);
        // No key is made meanwhile, so that each has it once.
        let _order = self.0.order.lock();
        self.0
            .overflow
            .shared()
            .outbox()
            .observe(observer.clone())?;
        for breaker in self.list() {
            // One that was given observers of its own may have no place for another.
            let _ = breaker.shared().outbox().observe(observer.clone());
        }
        self.0.observers.lock().push(observer);
        Ok(())
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.order.lock().entries
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The breaker for keys without a place.
    #[must_use]
    pub fn overflow(&self) -> &CircuitBreaker {
        &self.0.overflow
    }

    /// How many times a key found no place.
    #[must_use]
    pub fn overflowed(&self) -> u64 {
        self.0.overflowed.load(Relaxed)
    }
}

impl fmt::Debug for Keyed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyed")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for KeyedBreakers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedBreakers")
            .field("name", &self.0.name)
            .field("keys", &self.len())
            .field("overflowed", &self.overflowed())
            .finish_non_exhaustive()
    }
}

fn read(shard: &RwLock<Shard>) -> RwLockReadGuard<'_, Shard> {
    shard.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(shard: &RwLock<Shard>) -> RwLockWriteGuard<'_, Shard> {
    shard.write().unwrap_or_else(PoisonError::into_inner)
}

impl Keyed {
    /// The part of the map that a key is in. The map inside hashes with a secret of its own; who
    /// chooses keys can make threads meet here, no more.
    fn place_of(&self, key: &str) -> &RwLock<Shard> {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15; // 2^64 divided by the golden ratio
        let mix = |mixed: u64, word: u64| (mixed.rotate_left(29) ^ word).wrapping_mul(ODD);
        let (words, rest) = key.as_bytes().as_chunks::<8>();
        let words = words.iter().map(|word| u64::from_le_bytes(*word));
        let rest = rest
            .iter()
            .fold(0, |word, byte| word << 8 | u64::from(*byte));
        &self.shards[(mix(words.fold(0, mix), rest) >> 60) as usize]
    }

    fn shard(&self, key: &str) -> RwLockReadGuard<'_, Shard> {
        read(self.place_of(key))
    }

    #[cold]
    fn insert(&self, key: &str) -> CircuitBreaker {
        let now = self.clock.ticks();
        if key.len() > self.config.max_key_bytes {
            return self.overflow();
        }
        // Dropped after the lock is let go, as every entry that leaves: it may be the last to have
        // an observer, which may use the breakers when it is dropped.
        let evicted;
        let mut order = self.order.lock();
        if let Some(entry) = self.shard(key).get(key) {
            // Another thread was faster.
            return entry.breaker.clone();
        }
        if order.closed {
            return self.overflow();
        }
        if order.entries >= self.config.max_keys {
            evicted = self.evict(&mut order, RemovalReason::Capacity, now);
            if evicted.is_none() {
                return self.overflow();
            }
        }
        let key: Arc<str> = key.into();
        let member = Member {
            key: Some(key.clone()),
            clock: Some(self.clock.clone()),
            bytes: Some(self.breaker_bytes.clone()),
            state: None,
        };
        let breaker = CircuitBreaker::of_checked(self.name, &self.config.breaker, member);
        for observer in self.observers.lock().iter() {
            // There are no more than one breaker may have.
            let _ = breaker.shared().outbox().observe(observer.clone());
        }
        order.next += 1;
        let number = order.next;
        let entry = Entry {
            breaker: breaker.clone(),
            number,
            touched: AtomicBool::new(false),
            used: AtomicU64::new(now),
        };
        write(self.place_of(&key)).insert(key.clone(), entry);
        order.entries += 1;
        order.inserted += 1;
        order.key_bytes += Self::key_bytes(&key);
        order.fresh.push_back(Place { number, key });
        self.tidy_if_due(&mut order);
        breaker
    }

    fn overflow(&self) -> CircuitBreaker {
        self.overflowed.fetch_add(1, Relaxed);
        self.overflow.clone()
    }

    /// The text and its reference counts, as they are allocated.
    const fn key_bytes(key: &str) -> usize {
        (key.len() + 2 * size_of::<usize>()).next_multiple_of(align_of::<usize>())
    }

    /// Takes a key out of the map. Its place stays until somebody comes by.
    fn remove(&self, order: &mut Order, key: &str, reason: RemovalReason) -> Option<Entry> {
        let entry = write(self.place_of(key)).remove(key)?;
        order.entries -= 1;
        order.removed.add(reason, 1);
        order.full_until = 0;
        Some(entry)
    }

    /// Takes a key out of the map whose place was taken already.
    fn remove_with(
        &self,
        order: &mut Order,
        place: &Place,
        reason: RemovalReason,
    ) -> Option<Entry> {
        order.key_bytes -= Self::key_bytes(&place.key);
        self.remove(order, &place.key, reason)
    }

    /// Makes room for one key, and gives what was there. Looks at a few places at most, and goes
    /// on from there the next time.
    fn evict(&self, order: &mut Order, reason: RemovalReason, now: u64) -> Option<Entry> {
        if now < order.full_until {
            return None;
        }
        for _ in 0..LOOKS {
            // The oldest that is still as good as new. Others are looked at once and never again
            // there.
            if let Some(place) = order.fresh.pop_front() {
                match self.look_at(&place, now) {
                    None => order.key_bytes -= Self::key_bytes(&place.key),
                    Some(known) if matches!(known.worth, Worth::Nothing) => {
                        return self.remove_with(order, &place, reason);
                    }
                    Some(known) => {
                        if known.touched {
                            // It has its second chance below.
                            self.touch(&place);
                        }
                        order.used.push_back(place);
                    }
                }
                continue;
            }
            let place = order.used.pop_front()?;
            let Some(known) = self.look_at(&place, now) else {
                order.key_bytes -= Self::key_bytes(&place.key);
                continue;
            };
            let goes = match known.worth {
                Worth::Nothing => true,
                // One that was asked for since it was seen last has a second chance.
                Worth::Little => !known.touched,
                Worth::Kept(until) => {
                    order.kept_until = order.kept_until.min(until);
                    false
                }
            };
            if goes {
                order.in_vain = 0;
                return self.remove_with(order, &place, reason);
            }
            order.used.push_back(place);
            order.in_vain += 1;
            if order.in_vain >= 2 * order.used.len() {
                // Twice round, and nothing can go. Do not look again for each key that comes.
                order.full_until = order.kept_until.min(now.saturating_add(FULL_FOR));
                (order.in_vain, order.kept_until) = (0, NEVER);
                return None;
            }
        }
        None
    }

    /// Has an entry be one that was asked for.
    fn touch(&self, place: &Place) {
        if let Some(entry) = self.shard(&place.key).get(&place.key) {
            entry.touched.store(true, Relaxed);
        }
    }

    /// Looks at an entry, and notes when it was asked for. `None` if it has gone.
    fn look_at(&self, place: &Place, now: u64) -> Option<Known> {
        let shard = self.shard(&place.key);
        let entry = shard.get(&place.key)?;
        if entry.number != place.number {
            return None;
        }
        let touched = entry.touched.swap(false, Relaxed);
        if touched {
            entry.used.store(now, Relaxed);
        }
        Some(Known {
            touched,
            used: entry.used.load(Relaxed),
            worth: entry.breaker.worth(now),
        })
    }

    /// Places outlive keys that were removed, but are not many more.
    fn tidy_if_due(&self, order: &mut Order) {
        if order.places() > 2 * order.entries + SHARDS {
            self.tidy(order);
        }
    }

    /// Drops the places of keys that have gone.
    fn tidy(&self, order: &mut Order) {
        let Order {
            fresh,
            used,
            key_bytes,
            ..
        } = order;
        for places in [fresh, used] {
            places.retain(|place| {
                let shard = self.shard(&place.key);
                let entry = shard.get(&place.key);
                let lives = entry.is_some_and(|entry| entry.number == place.number);
                if !lives {
                    *key_bytes -= Self::key_bytes(&place.key);
                }
                lives
            });
        }
        order.shrink();
    }

    /// Forgets keys that were idle, `budget` places at a time.
    fn sweep_some(&self, now: u64, budget: usize) -> (u64, bool) {
        let idle = nanos(self.config.idle);
        let (mut expired, mut histories) = (Vec::new(), Vec::new());
        let mut order = self.order.lock();
        if order.to_sweep == (0, 0) {
            order.to_sweep = (order.used.len(), order.fresh.len());
        }
        for _ in 0..budget.max(1) {
            let (used, fresh) = &mut order.to_sweep;
            let is_used = *used > 0;
            let left = if is_used { used } else { fresh };
            if *left == 0 {
                break;
            }
            *left -= 1;
            // Round the queue once, so that it is in order again at the end.
            let Some(place) = order.queue(is_used).pop_front() else {
                continue;
            };
            let Some(known) = self.look_at(&place, now) else {
                order.key_bytes -= Self::key_bytes(&place.key);
                continue;
            };
            let is_idle = now.saturating_sub(known.used) >= idle;
            if is_idle && !matches!(known.worth, Worth::Kept(_)) {
                expired.extend(self.remove_with(&mut order, &place, RemovalReason::Expired));
                continue;
            }
            if self.config.breaker.history.enabled {
                histories.extend(self.shard(&place.key).get(&*place.key).map(Entry::handle));
            }
            order.queue(is_used).push_back(place);
        }
        let done = order.to_sweep == (0, 0);
        if done {
            order.shrink();
        }
        drop(order);
        let expired = expired.len() as u64;
        // Without a lock, for this may tell observers of what has come to pass.
        for breaker in histories {
            breaker.cleanup();
        }
        if !done {
            return (expired, false);
        }
        for shard in &self.shards {
            let mut shard = write(shard);
            if shard.len() * 4 < shard.capacity() {
                shard.shrink_to_fit();
            }
        }
        (expired, true)
    }
}

impl Entry {
    fn handle(&self) -> CircuitBreaker {
        self.breaker.clone()
    }
}

impl Order {
    fn queue(&mut self, used: bool) -> &mut VecDeque<Place> {
        match used {
            true => &mut self.used,
            false => &mut self.fresh,
        }
    }

    fn shrink(&mut self) {
        for places in [&mut self.fresh, &mut self.used] {
            if places.len() * 4 < places.capacity() {
                places.shrink_to_fit();
            }
        }
    }

    fn places(&self) -> usize {
        self.fresh.len() + self.used.len()
    }
}

impl Bounded for Keyed {
    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn usage(&self) -> Usage {
        // Each with its reference counts.
        let fixed = size_of::<Self>() + size_of::<AtomicI64>();
        let mut bytes = fixed + 4 * size_of::<usize>();
        for shard in &self.shards {
            bytes += table_bytes(read(shard).capacity());
        }
        let order = self.order.lock();
        bytes += order.key_bytes;
        bytes += (order.fresh.capacity() + order.used.capacity()) * size_of::<Place>();
        let breakers = u64::try_from(self.breaker_bytes.load(Relaxed)).unwrap_or(0);
        Usage::new(order.entries as u64, bytes as u64 + breakers)
            .with_max_entries(self.config.max_keys as u64)
    }

    fn totals(&self) -> Totals {
        let order = self.order.lock();
        Totals::new(order.inserted, order.removed)
    }

    fn sweep(&self, now: Instant, budget: usize) -> Step {
        let (expired, done) = self.sweep_some(self.clock.ticks(), budget);
        let removed = Removed::expired(expired);
        match done {
            true => Step::at(removed, now + self.config.idle / 2),
            false => Step::more(removed),
        }
    }

    /// Forgets keys that would not be missed, as it would for new ones.
    fn shrink(&self, share: f64, _: usize) -> Step {
        let now = self.clock.ticks();
        let mut evicted = Vec::new();
        let mut order = self.order.lock();
        let keys = (order.entries as f64 * share.clamp(0.0, 1.0)) as usize;
        while evicted.len() < keys
            && let Some(entry) = self.evict(&mut order, RemovalReason::Pressure, now)
        {
            evicted.push(entry);
        }
        drop(order);
        Step {
            removed: Removed::of(RemovalReason::Pressure, evicted.len() as u64),
            ..Step::idle()
        }
    }

    fn close(self: Arc<Self>, _: Instant) -> BoxFuture<'static, CloseReport> {
        Box::pin(async move {
            let mut entries = Vec::new();
            let mut order = self.order.lock();
            order.closed = true;
            for shard in &self.shards {
                entries.push(std::mem::take(&mut *write(shard)));
            }
            let dropped = entries.iter().map(HashMap::len).sum::<usize>() as u64;
            order.removed.add(RemovalReason::Closed, dropped);
            (order.entries, order.key_bytes) = (0, 0);
            (order.fresh, order.used) = (VecDeque::new(), VecDeque::new());
            drop(order);
            CloseReport::dropped(dropped)
        })
    }
}

impl Holding for KeyedBreakers {
    fn bounded(&self) -> Arc<dyn Bounded> {
        self.0.clone()
    }
}

/// Bytes of a part of the map: the standard library's table has places for 8 entries in 7, a power
/// of two of them, and a byte for each and for 16 more.
const fn table_bytes(capacity: usize) -> usize {
    if capacity == 0 {
        return 0;
    }
    let places = (capacity * 8).div_ceil(7).next_power_of_two();
    places * (size_of::<(Arc<str>, Entry)>() + 1) + 16
}

impl CircuitBreaker {
    /// What would be lost if it were forgotten. Changes nothing, so that nobody is told of
    /// anything while the locks of the keys are held.
    fn worth(&self, now: u64) -> Worth {
        let shared = self.shared();
        let counting = shared.stripes().iter().any(|stripe| stripe.is_dirty());
        let busy = counting || self.in_flight() > 0;
        shared.peek(|machine| {
            let view = machine.view();
            match view.state {
                State::Closed if !busy && machine.is_like_new() => Worth::Nothing,
                State::Open if now < view.until => Worth::Kept(view.until),
                State::Closed | State::Open => Worth::Little,
                State::HalfOpen if view.probes_in_flight == 0 => Worth::Little,
                State::HalfOpen | State::ForcedOpen | State::Disabled | State::MetricsOnly => {
                    Worth::Kept(NEVER)
                }
            }
        })
    }
}
