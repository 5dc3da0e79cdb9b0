//! What is used, and what would be if more were allocated.

/// What is used besides what the allocator gave out is remembered so often, in nanoseconds, and so many
/// times.
const REMEMBER_EVERY: u64 = 50_000_000;
const REMEMBERED: usize = 64;
/// How often it is looked at what comes of what the allocator gives out, in nanoseconds.
const COMPARE_EVERY: u64 = 10_000_000;
/// No more than this part of the line is taken to come from what the allocator keeps, and this part of
/// what is free below it: what it did so far is no promise.
const MOST_REUSED: u64 = 48;
const MOST_REUSED_BELOW: u64 = 4;
/// Less than that, as a part of the line, tells nothing.
const LEAST: u64 = 128;
/// What a look weighs at the most: one that says that less is used again, and one that says more.
const LESS: f64 = 0.5;
const MORE: f64 = 0.1;

/// What is used at a time, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// What counts against the limit.
    used: u64,
    /// What the allocator gave out, and what there is besides at the least: code, and buffers of the
    /// kernel. 0 where nobody counts.
    held: u64,
    /// Pages that the allocator keeps.
    kept: u64,
    /// How much of what is allocated comes from there, from 0 to 1, and how many bytes at the most.
    reused: f64,
    most_reused: u64,
}

/// Learns what of the pages that the allocator keeps is used again.
///
/// Some allocators keep what was freed in pieces that fit nobody. How much of what is given out is
/// taken from there is seen by how much less the process grows.
pub(super) struct Reuse {
    besides: [i64; REMEMBERED],
    count: usize,
    remembered_at: u64,
    /// When it was compared last, with what was used and given out then.
    compared: Option<(u64, u64, u64)>,
    reused: f64,
}

impl Usage {
    /// What is used where nobody counts what the allocator gave out.
    pub(super) const fn untracked(used: u64) -> Self {
        Self {
            used,
            held: 0,
            kept: 0,
            reused: 0.0,
            most_reused: 0,
        }
    }

    /// What would be used if so much more were allocated.
    pub(super) fn with(&self, more: u64) -> u64 {
        let again = (more as f64 * self.reused) as u64;
        let again = again.min(self.kept).min(self.most_reused);
        // What was given out and is not in memory yet will be.
        let given = self.held.saturating_add(more);
        given.max(self.used.saturating_add(more - again))
    }

    /// What is used now, or will be without anybody else.
    pub(super) fn now(&self) -> u64 {
        self.with(0)
    }

    /// Pages that the allocator keeps.
    pub(super) const fn kept(&self) -> u64 {
        self.kept
    }
}

impl Reuse {
    pub(super) const fn new() -> Self {
        Self {
            besides: [0; REMEMBERED],
            count: 0,
            remembered_at: 0,
            compared: None,
            reused: 0.0,
        }
    }

    /// What it was until now tells nothing of what there is besides: the allocator has given back what
    /// it had free.
    pub(super) const fn forget(&mut self) {
        self.count = 0;
        self.compared = None;
    }

    /// What of the pages kept is used again, from 0 to 1.
    pub(super) const fn reused(&self) -> f64 {
        self.reused
    }

    /// Takes what the system says is used, and what the allocator gave out.
    pub(super) fn look(&mut self, used: u64, tracked: u64, line: u64, now: u64) -> Usage {
        if self.count == 0 || now.saturating_sub(self.remembered_at) >= REMEMBER_EVERY {
            self.besides[self.count % REMEMBERED] = used as i64 - tracked as i64;
            self.count += 1;
            self.remembered_at = now;
        }
        self.compare(used, tracked, line, now);
        let seen = &self.besides[..self.count.min(REMEMBERED)];
        let least = seen.iter().min().copied().unwrap_or(0);
        let held = tracked + u64::try_from(least).unwrap_or(0);
        Usage {
            used,
            held,
            kept: used.saturating_sub(held),
            reused: self.reused,
            most_reused: line / MOST_REUSED + line.saturating_sub(used) / MOST_REUSED_BELOW,
        }
    }

    fn compare(&mut self, used: u64, tracked: u64, line: u64, now: u64) {
        let Some((at, used_then, tracked_then)) = self.compared else {
            self.compared = Some((now, used, tracked));
            return;
        };
        if now.saturating_sub(at) < COMPARE_EVERY {
            return;
        }
        self.compared = Some((now, used, tracked));
        let given = tracked.saturating_sub(tracked_then);
        if given < (line / LEAST).max(1) {
            return;
        }
        let grown = used.saturating_sub(used_then);
        let again = 1.0 - (grown as f64 / given as f64).min(1.0);
        let most = if again < self.reused { LESS } else { MORE };
        // A sixteenth of the line is a good look.
        let weight = (16.0 * given as f64 / line.max(1) as f64).min(1.0) * most;
        self.reused += (again - self.reused) * weight;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const LINE: u64 = 512 * MIB;

    /// Looks every 10 ms.
    fn looks(reuse: &mut Reuse, looks: &[(u64, u64)]) -> Usage {
        let mut usage = Usage::default();
        for (n, (used, tracked)) in looks.iter().enumerate() {
            let now = (reuse.count as u64 * 1_000 + n as u64) * COMPARE_EVERY;
            usage = reuse.look(used * MIB, tracked * MIB, LINE, now);
        }
        usage
    }

    #[test]
    fn without_a_count_all_that_comes_is_more() {
        assert_eq!(Usage::untracked(100).with(30), 130);
    }

    #[test]
    fn what_the_allocator_keeps_is_not_taken_to_be_used_again_until_it_is() {
        let mut reuse = Reuse::new();
        let usage = looks(&mut reuse, &[(10, 0), (300, 290), (300, 100)]);
        assert_eq!(usage.kept(), 190 * MIB);
        assert_eq!(usage.with(50 * MIB), 350 * MIB);
    }

    #[test]
    fn it_is_once_the_process_does_not_grow_by_what_is_given_out() {
        let mut reuse = Reuse::new();
        looks(&mut reuse, &[(10, 0), (300, 290)]);
        let cycle: Vec<_> = [(300, 100), (300, 290)].repeat(50);
        looks(&mut reuse, &cycle);
        let usage = looks(&mut reuse, &[(300, 100)]);
        assert!(usage.with(20 * MIB) < 302 * MIB);
        // But no more of it than a part of the line, and of what is free below it.
        assert_eq!(usage.most_reused / MIB, 10 + 53);
        assert!(usage.with(100 * MIB) > 336 * MIB);
        // And when it grows all the same, that is learned at once.
        let usage = looks(
            &mut reuse,
            &[(300, 100), (400, 200), (400, 100), (500, 200)],
        );
        assert!(usage.reused < 0.3, "{}", usage.reused);
    }

    #[test]
    fn what_was_given_out_and_is_not_in_memory_yet_counts() {
        let mut reuse = Reuse::new();
        let usage = looks(&mut reuse, &[(10, 0), (20, 100)]);
        assert_eq!(usage.now(), 100 * MIB);
        assert_eq!(usage.with(50 * MIB), 150 * MIB);
    }

    #[test]
    fn what_there_is_besides_is_learned_anew_after_a_purge() {
        let mut reuse = Reuse::new();
        looks(&mut reuse, &[(10, 0); 10]);
        reuse.forget();
        let usage = looks(&mut reuse, &[(130, 100)]);
        assert_eq!((usage.kept(), usage.now()), (0, 130 * MIB));
    }
}
