//! Calls as they are kept: 12 bytes each, in chunks.

use crate::CallOutcome;

/// One call: 12 bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Record {
    /// The high and the low word of: the time the call ended, in ticks, with the flags in place
    /// of the lowest bits, so that it is exact to 64 ns.
    ended_and_flags: [u32; 2],
    /// The duration in nanoseconds, see [`Record::pack`].
    duration: u32,
}

/// What a call was, in the bits of its record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Flags(pub(crate) u64);

impl Flags {
    const OUTCOME: u64 = 0b11;
    pub(crate) const SLOW: u64 = 1 << 2;
    pub(crate) const PROBE: u64 = 1 << 3;
    pub(crate) const STALE: u64 = 1 << 4;
    pub(crate) const ALL: u64 = (1 << 6) - 1;

    pub(crate) const fn new(outcome: CallOutcome, slow: bool, probe: bool, stale: bool) -> Self {
        let outcome = match outcome {
            CallOutcome::Success => 0,
            CallOutcome::Failure => 1,
            CallOutcome::Ignored => 2,
            CallOutcome::Dropped => 3,
        };
        let mut flags = outcome;
        if slow {
            flags |= Self::SLOW;
        }
        if probe {
            flags |= Self::PROBE;
        }
        if stale {
            flags |= Self::STALE;
        }
        Self(flags)
    }

    pub(crate) const fn outcome(self) -> CallOutcome {
        match self.0 & Self::OUTCOME {
            0 => CallOutcome::Success,
            1 => CallOutcome::Failure,
            2 => CallOutcome::Ignored,
            _ => CallOutcome::Dropped,
        }
    }
}

impl Record {
    #[inline]
    pub(crate) const fn new(ended: u64, duration: u64, flags: Flags) -> Self {
        let word = ended & !Flags::ALL | flags.0;
        Self {
            ended_and_flags: [(word >> 32) as u32, word as u32],
            duration: Self::pack(duration),
        }
    }

    pub(crate) const fn word(self) -> u64 {
        (self.ended_and_flags[0] as u64) << 32 | self.ended_and_flags[1] as u64
    }

    pub(crate) const fn ended(self) -> u64 {
        self.word() & !Flags::ALL
    }

    pub(crate) const fn flags(self) -> Flags {
        Flags(self.word() & Flags::ALL)
    }

    pub(crate) const fn duration(self) -> u64 {
        let (shift, mantissa) = (self.duration >> 27, self.duration & Self::MANTISSA);
        (mantissa as u64) << shift
    }

    const MANTISSA: u32 = (1 << 27) - 1;

    /// 27 bits of mantissa and 5 of exponent: exact below 134 ms, to one part in 67 million
    /// above, up to 9 years.
    #[inline]
    const fn pack(duration: u64) -> u32 {
        let longest = (Self::MANTISSA as u64) << 31;
        let duration = if duration > longest {
            longest
        } else {
            duration
        };
        let bits = u64::BITS - duration.leading_zeros();
        let shift = bits.saturating_sub(27);
        shift << 27 | (duration >> shift) as u32
    }
}

/// Calls in the order they ended.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    /// Counts the chunks of a history, times the most stripes, plus the number of the stripe
    /// that fills it; 0 has no calls.
    pub(crate) number: u64,
    pub(crate) records: Vec<Record>,
    /// How many of them are gone already.
    pub(crate) first: usize,
}

impl Chunk {
    pub(crate) fn with_capacity(records: usize) -> Self {
        Self {
            number: 0,
            records: Vec::with_capacity(records),
            first: 0,
        }
    }

    pub(crate) fn held(&self) -> &[Record] {
        &self.records[self.first..]
    }

    pub(crate) fn bytes(&self) -> i64 {
        (self.records.capacity() * size_of::<Record>()) as i64
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len() - self.first
    }

    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.records.len() == self.records.capacity()
    }

    /// Adds a record, which must have a place.
    #[inline]
    pub(crate) fn push(&mut self, record: Record) {
        debug_assert!(!self.is_full(), "a full chunk is handed over first");
        self.records.push(record);
    }

    /// Copies the calls, and says which chunk it is.
    pub(crate) fn copy_to(&self, to: &mut Vec<Record>) -> Option<u64> {
        to.extend_from_slice(self.held());
        Some(self.number).filter(|number| *number > 0)
    }

    /// Forgets the oldest `calls`, or all, and says how many that were.
    pub(crate) fn forget(&mut self, calls: usize) -> usize {
        let forgotten = calls.min(self.len());
        self.first += forgotten;
        forgotten
    }

    /// Forgets what ended before `cutoff`, and says how many that were.
    pub(crate) fn trim(&mut self, cutoff: u64) -> usize {
        let expired = self.held().partition_point(|call| call.ended() < cutoff);
        self.first += expired;
        expired
    }

    pub(crate) fn last_ended(&self) -> u64 {
        self.records.last().map_or(0, |call| call.ended())
    }
}
