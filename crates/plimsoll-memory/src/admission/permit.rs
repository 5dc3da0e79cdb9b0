use super::ledger::Large;
use std::{fmt, sync::Arc};

/// What is reserved for a request that was let in.
///
/// It is given back by the [weigher](crate::Weigher::begin_admitted) that begins the request with it, and by
/// nobody else: whoever drops it has it reserved for ever.
#[must_use = "what is reserved is given back only by a weigher that begins with it"]
pub struct Permit {
    pub(super) hold: Hold,
}

pub(super) enum Hold {
    Nothing,
    /// The stripe that it is reserved in, and which size its body was said to have.
    Small {
        stripe: u8,
        class: u8,
        bytes: u32,
    },
    Large(Arc<Large>),
}

impl Permit {
    pub(crate) const NOTHING: Self = Self {
        hold: Hold::Nothing,
    };

    pub(super) const fn small(stripe: usize, class: u8, bytes: i64) -> Self {
        Self {
            hold: Hold::Small {
                stripe: stripe as u8,
                class,
                bytes: bytes as u32,
            },
        }
    }

    pub(super) const fn large(large: Arc<Large>) -> Self {
        Self {
            hold: Hold::Large(large),
        }
    }

    pub(super) fn take(self) -> Hold {
        self.hold
    }

    /// Whether somebody wants what it holds given back, now.
    #[inline]
    pub(crate) fn is_cancelled(&self) -> bool {
        match &self.hold {
            Hold::Large(large) => large.is_cancelled(),
            _ => false,
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
