use super::{route::Route, running::Large};
use std::{fmt, mem, sync::Arc};

/// What is reserved for a request that had to ask, and was let in.
///
/// A [weigher](crate::Weigher::begin_admitted) that begins with it gives it back when the request ends.
/// Whoever drops it gives it back at once.
#[must_use = "what is reserved is given back at once if nobody begins with it"]
pub struct Permit {
    hold: Hold,
    /// None where nothing is reserved.
    route: Option<Arc<Route>>,
}

/// What is reserved. Whoever has it has to give it back to its [route](Route::release): it has no
/// reference to that itself, which would be counted for each request, and shared by all threads.
#[must_use = "it has to be given back"]
pub(crate) enum Hold {
    Nothing,
    /// The stripe that it is reserved in, and which size its body was said to have.
    Small {
        stripe: u8,
        class: u8,
        bytes: u32,
    },
    Large(Arc<Large>),
}

// === impl Permit ===

impl Permit {
    pub(crate) const NOTHING: Self = Self {
        hold: Hold::Nothing,
        route: None,
    };

    pub(super) const fn new(hold: Hold, route: Arc<Route>) -> Self {
        Self {
            hold,
            route: Some(route),
        }
    }

    /// Whoever takes it gives it back.
    pub(crate) fn take(mut self) -> Hold {
        mem::replace(&mut self.hold, Hold::Nothing)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(route) = &self.route {
            route.release(mem::replace(&mut self.hold, Hold::Nothing), None, 0);
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match &self.hold {
            Hold::Nothing => "nothing",
            Hold::Small { .. } => "small",
            Hold::Large(_) => "large",
        };
        f.debug_tuple("Permit").field(&what).finish()
    }
}

// === impl Hold ===

impl Hold {
    pub(super) const fn small(stripe: usize, class: u8, bytes: i64) -> Self {
        Self::Small {
            stripe: stripe as u8,
            class,
            bytes: bytes as u32,
        }
    }

    /// Whether somebody wants what it holds given back, now.
    #[inline]
    pub(crate) fn is_cancelled(&self) -> bool {
        match self {
            Self::Large(large) => large.is_cancelled(),
            Self::Nothing | Self::Small { .. } => false,
        }
    }
}
