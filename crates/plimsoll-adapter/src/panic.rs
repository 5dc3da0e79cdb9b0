//! Panics of what an adapter is given, kept from its callers.

use std::{
    any::Any,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Something panicked, and said so.
#[derive(Debug)]
pub(crate) struct Panicked(pub(crate) Box<str>);

/// Runs what was given to us by others. Whoever calls uses nothing again that it may have left
/// half done.
#[inline]
pub(crate) fn catch<T>(run: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|payload| Panicked(message(payload)))
}

#[cold]
fn message(payload: Box<dyn Any + Send>) -> Box<str> {
    let text = if let Some(text) = payload.downcast_ref::<&str>() {
        Box::from(*text)
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.as_str().into()
    } else {
        "no message".into()
    };
    discard(payload);
    text
}

/// Drops what was thrown, which may be anything and throw again.
#[allow(clippy::mem_forget, reason = "dropping it might go on for ever")]
fn discard(payload: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        mem::forget(again);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::panic_any;

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("again");
        }
    }

    #[test]
    fn what_a_panic_says_is_kept() {
        assert_eq!(&*catch(|| panic!("plain")).unwrap_err().0, "plain");
        let number = 7;
        assert_eq!(&*catch(|| panic!("no {number}")).unwrap_err().0, "no 7");
        assert_eq!(&*catch(|| panic_any(7)).unwrap_err().0, "no message");
        assert_eq!(catch(|| 7).unwrap(), 7);
    }

    #[test]
    fn a_payload_that_panics_when_it_is_dropped_does_not_escape() {
        assert_eq!(&*catch(|| panic_any(Bomb)).unwrap_err().0, "no message");
    }
}
