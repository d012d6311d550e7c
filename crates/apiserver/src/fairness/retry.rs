//! When a request that was refused should come again: the longer, the more were refused lately.

use std::collections::VecDeque;

const SECONDS_MAX: u64 = 32;

/// A level's refusals, by the second.
#[derive(Debug)]
pub struct Retry {
    history: VecDeque<(u64, u64)>,
    after: u64,
    doubled: u64,
}

impl Default for Retry {
    fn default() -> Self {
        Retry { history: VecDeque::new(), after: 1, doubled: 0 }
    }
}

impl Retry {
    /// Notes a refusal and says after how many seconds to come again.
    pub fn refused(&mut self, second: u64) -> u32 {
        match self.history.back_mut() {
            Some((last, count)) if *last == second => *count += 1,
            _ => {
                self.adjust(second);
                self.history.push_back((second, 1));
            }
        }
        self.after as u32
    }

    /// Doubles where the last seconds had many refusals, and goes back one by one.
    fn adjust(&mut self, second: u64) {
        let kept = second.saturating_sub((2 * self.after).min(SECONDS_MAX));
        while self.history.front().is_some_and(|(then, _)| *then < kept) {
            self.history.pop_front();
        }
        let since = second.saturating_sub(self.after);
        let refused: u64 = self.history.iter().filter(|(then, _)| *then >= since).map(|(_, count)| count).sum();
        if refused >= 3 * self.after && (self.doubled == 0 || second >= self.doubled + self.after) {
            self.after = (self.after * 2).min(SECONDS_MAX);
            self.doubled = second;
        } else if refused < self.after && self.after > 1 {
            self.after -= 1;
        }
    }
}
