//! A breaker for each key: ours, and what one would write by hand.

use crate::breaker::{ByHand, Down, Guard, config, good};
use plimsoll_breaker::{
    HistoryConfig, KeyedBreakerLayer, KeyedBreakerService, KeyedBreakers, KeyedConfig,
};
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    future::{Ready, ready},
    hint::black_box,
    sync::{Arc, Mutex, PoisonError, RwLock},
};
use tower::{Layer, Service, ServiceExt, service_fn, util::ServiceFn};

/// Keys, and in which order requests have them.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    keys: &'static [&'static str],
    in_turn: bool,
}

impl Keys {
    /// `number` keys all over the place. They are never freed.
    #[must_use]
    pub fn scattered(number: usize) -> Self {
        let keys: Vec<_> = (0..number)
            .map(|key| &*format!("tenant-{key:06}").leak())
            .collect();
        Self {
            keys: keys.leak(),
            in_turn: false,
        }
    }

    /// `number` keys one after the other, and as many others for the second of two threads.
    #[must_use]
    pub fn in_turn(number: usize) -> Self {
        Self {
            in_turn: true,
            ..Self::scattered(2 * number)
        }
    }

    /// The key of a request.
    #[inline]
    #[must_use]
    pub const fn of(&self, request: u64) -> &'static str {
        let index = if self.in_turn {
            let half = self.keys.len() / 2;
            (request >> 32 & 1) as usize * half + request as u32 as usize % half
        } else {
            // The golden ratio leads everywhere alike.
            let scattered = request.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            ((scattered * self.keys.len() as u64) >> 32) as usize
        };
        self.keys[index]
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.keys.iter().copied()
    }
}

/// Has a guard for each key.
pub trait PerKey: Send + Sync + 'static {
    /// What calls go through.
    type Guard: Guard;

    /// The guard of a key, made if there is none.
    fn get(&self, key: &str) -> Self::Guard;
}

/// A call through the guard of a request's key.
#[derive(Debug)]
pub struct Keyed<M> {
    map: Arc<M>,
    keys: Keys,
}

/// A look-up of the guard of a request's key, and no call.
#[derive(Debug)]
pub struct LookUp<M>(Keyed<M>);

impl<M: PerKey> Keyed<M> {
    /// Has the guards of `map` made for all keys.
    #[must_use]
    pub fn known(map: M, keys: Keys) -> Self {
        for key in keys.iter() {
            map.get(key);
        }
        Self::new(map, keys)
    }

    /// Leaves the keys to be met.
    #[must_use]
    pub fn new(map: M, keys: Keys) -> Self {
        Self {
            map: Arc::new(map),
            keys,
        }
    }

    /// Looks up only.
    #[must_use]
    pub const fn look_up(self) -> LookUp<M> {
        LookUp(self)
    }
}

impl<M> Clone for Keyed<M> {
    fn clone(&self) -> Self {
        Self {
            map: self.map.clone(),
            keys: self.keys,
        }
    }
}

impl<M> Clone for LookUp<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<M: PerKey> Guard for Keyed<M> {
    async fn drive(&mut self, from: u64, calls: u64) {
        for n in from..from + calls {
            let mut guard = self.map.get(self.keys.of(black_box(n)));
            guard.drive(n, 1).await;
        }
    }
}

impl<M: PerKey> Guard for LookUp<M> {
    async fn drive(&mut self, from: u64, calls: u64) {
        for n in from..from + calls {
            drop(black_box(self.0.map.get(self.0.keys.of(black_box(n)))));
        }
    }
}

// === Ours ===

/// Breakers for `max_keys` keys, without histories as they come.
///
/// # Panics
///
/// When there may not be so many.
#[must_use]
pub fn plimsoll(max_keys: usize) -> KeyedBreakers {
    let breaker = config().history(HistoryConfig::disabled());
    let config = KeyedConfig::new().breaker(breaker).max_keys(max_keys);
    KeyedBreakers::new("bench", config).expect("the configuration is in range")
}

impl PerKey for KeyedBreakers {
    type Guard = ByHand;

    #[inline]
    fn get(&self, key: &str) -> ByHand {
        ByHand::new(Self::get(self, key), good())
    }
}

fn key_of<'a>(request: &'a &'static str) -> &'a str {
    request
}

// With another answer than that of the other service, so that the code for that is not shared
// with this one: it would not be inlined then.
#[inline(never)]
fn answer(request: &'static str) -> Ready<Result<&'static str, Down>> {
    ready(Ok(request))
}

type Answer = ServiceFn<fn(&'static str) -> Ready<Result<&'static str, Down>>>;

type KeyOf = for<'a> fn(&'a &'static str) -> &'a str;

/// The Tower service of keyed breakers.
#[derive(Clone)]
pub struct KeyedTower {
    service: KeyedBreakerService<Answer, KeyOf>,
    keys: Keys,
}

impl KeyedTower {
    /// Puts breakers around a service, and has those of all keys made.
    #[must_use]
    pub fn known(breakers: KeyedBreakers, keys: Keys) -> Self {
        for key in keys.iter() {
            let _ = breakers.get(key);
        }
        let layer = KeyedBreakerLayer::new(breakers, key_of as KeyOf);
        let service = layer.layer(service_fn(answer as fn(&'static str) -> _));
        Self { service, keys }
    }
}

impl Guard for KeyedTower {
    async fn drive(&mut self, from: u64, calls: u64) {
        for n in from..from + calls {
            let key = self.keys.of(black_box(n));
            let Ok(ready) = self.service.ready().await else {
                panic!("the service is not ready");
            };
            let _ = black_box(ready.call(key).await);
        }
    }
}

impl fmt::Debug for KeyedTower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedTower")
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

// === By hand ===

/// Guards in a map behind a mutex. There is no end to them.
#[derive(Debug)]
pub struct InMutex<G> {
    map: Mutex<HashMap<String, G>>,
    make: fn() -> G,
}

/// Guards in a map behind a read-write lock. There is no end to them.
#[derive(Debug)]
pub struct InRwLock<G> {
    map: RwLock<HashMap<String, G>>,
    make: fn() -> G,
}

/// Guards in a map behind a mutex, whose oldest makes room for a new one.
#[derive(Debug)]
pub struct Capped<G> {
    map: Mutex<(HashMap<String, G>, VecDeque<String>)>,
    max_keys: usize,
    make: fn() -> G,
}

impl<G> InMutex<G> {
    /// Makes an empty map of what `make` makes.
    #[must_use]
    pub fn new(make: fn() -> G) -> Self {
        Self {
            map: Mutex::default(),
            make,
        }
    }
}

impl<G> InRwLock<G> {
    /// Makes an empty map of what `make` makes.
    #[must_use]
    pub fn new(make: fn() -> G) -> Self {
        Self {
            map: RwLock::default(),
            make,
        }
    }
}

impl<G> Capped<G> {
    /// Makes an empty map of what `make` makes.
    #[must_use]
    pub fn new(max_keys: usize, make: fn() -> G) -> Self {
        Self {
            map: Mutex::default(),
            max_keys,
            make,
        }
    }
}

impl<G: Guard + Clone> PerKey for InMutex<G> {
    type Guard = G;

    #[inline]
    fn get(&self, key: &str) -> G {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(guard) = map.get(key) {
            return guard.clone();
        }
        map.entry(key.to_owned()).or_insert_with(self.make).clone()
    }
}

impl<G: Guard + Clone + Sync> PerKey for InRwLock<G> {
    type Guard = G;

    #[inline]
    fn get(&self, key: &str) -> G {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(guard) = map.get(key) {
            return guard.clone();
        }
        drop(map);
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        map.entry(key.to_owned()).or_insert_with(self.make).clone()
    }
}

impl<G: Guard + Clone> PerKey for Capped<G> {
    type Guard = G;

    #[inline]
    fn get(&self, key: &str) -> G {
        let mut locked = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let (map, order) = &mut *locked;
        if let Some(guard) = map.get(key) {
            return guard.clone();
        }
        if map.len() >= self.max_keys
            && let Some(oldest) = order.pop_front()
        {
            map.remove(&oldest);
        }
        order.push_back(key.to_owned());
        map.entry(key.to_owned()).or_insert_with(self.make).clone()
    }
}
