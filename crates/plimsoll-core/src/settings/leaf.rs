use super::{Kind, Secret, Setting, Value};
use std::{collections::BTreeMap, net::SocketAddr, ops::RangeInclusive, time::Duration};

/// A field that holds a `V`, or may.
pub trait Holds<V> {
    /// What it holds.
    fn held(&self) -> Option<V>;

    /// Has it hold a value. None is only given to a field that may be without.
    fn hold(&mut self, value: Option<V>);
}

/// Words that stand for the values of a type.
pub trait Choice: Copy {
    /// Every word.
    const NAMES: &'static [&'static str];

    /// The word for this value, one of [`NAMES`](Self::NAMES).
    fn name(self) -> &'static str;

    /// The value for a word.
    fn from_name(name: &str) -> Option<Self>;
}

/// A field as a [`Setting`].
#[derive(Debug)]
pub struct Leaf<'a, H, V> {
    field: &'a mut H,
    kind: Kind,
    words: &'static [&'static str],
    wrap: fn(V) -> Value,
    unwrap: fn(Value) -> Option<V>,
}

impl<T, V> Leaf<'_, Option<T>, V> {
    /// Sets the words for a field without a value. The first is the one that is shown.
    #[must_use]
    pub const fn or(mut self, words: &'static [&'static str]) -> Self {
        self.words = words;
        self
    }
}

impl<H: Holds<V>, V> Setting for Leaf<'_, H, V> {
    fn kind(&self) -> Kind {
        self.kind.clone()
    }

    fn words(&self) -> &'static [&'static str] {
        self.words
    }

    fn value(&self) -> Value {
        let none = self.words.first().copied().unwrap_or("none");
        self.field.held().map_or(Value::Word(none), self.wrap)
    }

    fn set(&mut self, value: Value) {
        self.field.hold((self.unwrap)(value));
    }
}

/// Makes the function that makes a leaf of a field.
macro_rules! leaf {
    ($(#[$about:meta])* $name:ident, $held:ty, $variant:ident, $kind:expr $(, $range:ident: $of:ty)?) => {
        $(#[$about])*
        #[must_use]
        pub fn $name<H: Holds<$held>>(field: &mut H $(, $range: RangeInclusive<$of>)?) -> Leaf<'_, H, $held> {
            Leaf {
                field,
                kind: $kind,
                words: &[],
                wrap: Value::$variant,
                unwrap: |value| match value {
                    Value::$variant(value) => Some(value),
                    _ => None,
                },
            }
        }
    };
}

leaf!(
    /// Whether something is done.
    flag, bool, Flag, Kind::Flag
);
leaf!(
    /// A whole number.
    integer, u64, Integer, Kind::Integer(range), range: u64
);
leaf!(
    /// A number.
    number, f64, Number, Kind::Number(range), range: f64
);
leaf!(
    /// A number above 0 and up to 100.
    percent, f64, Number, Kind::Percent
);
leaf!(
    /// A time.
    duration, Duration, Duration, Kind::Duration(range), range: Duration
);
leaf!(
    /// So many bytes.
    bytes, u64, Bytes, Kind::Bytes(range), range: u64
);
leaf!(
    /// Where to listen.
    address, SocketAddr, Address, Kind::Address
);
leaf!(
    /// Any text.
    text, String, Text, Kind::Text
);
leaf!(
    /// A text that is never shown.
    secret, Secret, Secret, Kind::Secret
);
leaf!(
    /// Several texts.
    texts, Vec<String>, Texts, Kind::Texts
);
leaf!(
    /// So many bytes for each name, of which there may be [`MAX_NAMES`](Kind::MAX_NAMES).
    sizes, BTreeMap<String, u64>, Sizes, Kind::Sizes(range), range: u64
);

/// One of some words.
pub const fn choice<T: Choice>(field: &mut T) -> impl Setting {
    Chosen(field)
}

struct Chosen<'a, T>(&'a mut T);

impl<T: Choice> Setting for Chosen<'_, T> {
    fn kind(&self) -> Kind {
        Kind::Choice(T::NAMES)
    }

    fn value(&self) -> Value {
        Value::Word(self.0.name())
    }

    fn set(&mut self, value: Value) {
        if let Value::Word(name) = value
            && let Some(value) = T::from_name(name)
        {
            *self.0 = value;
        }
    }
}

/// A field that always holds a value, and one that may.
macro_rules! holds {
    ($($held:ty),*) => {$(
        impl Holds<$held> for $held {
            fn held(&self) -> Option<$held> {
                Some(self.clone())
            }

            fn hold(&mut self, value: Option<$held>) {
                if let Some(value) = value {
                    *self = value;
                }
            }
        }

        impl Holds<$held> for Option<$held> {
            fn held(&self) -> Option<$held> {
                self.clone()
            }

            fn hold(&mut self, value: Option<$held>) {
                *self = value;
            }
        }
    )*};
}

holds!(
    bool,
    u64,
    f64,
    Duration,
    SocketAddr,
    String,
    Secret,
    Vec<String>,
    BTreeMap<String, u64>
);

/// Narrower integers. What does not fit is as much as fits, which a range keeps from happening.
macro_rules! holds_integer {
    ($($narrow:ty),*) => {$(
        impl Holds<u64> for $narrow {
            fn held(&self) -> Option<u64> {
                Some(u64::try_from(*self).unwrap_or(u64::MAX))
            }

            fn hold(&mut self, value: Option<u64>) {
                if let Some(value) = value {
                    *self = Self::try_from(value).unwrap_or(Self::MAX);
                }
            }
        }

        impl Holds<u64> for Option<$narrow> {
            fn held(&self) -> Option<u64> {
                self.map(|value| u64::try_from(value).unwrap_or(u64::MAX))
            }

            fn hold(&mut self, value: Option<u64>) {
                *self = value.map(|value| <$narrow>::try_from(value).unwrap_or(<$narrow>::MAX));
            }
        }
    )*};
}

holds_integer!(u32, usize);
