//! How many seats a level could have used, over time; and how many it gets of all there are.

use super::queues::Nanos;

/// Upstream's period of adjustment.
pub const PERIOD: Nanos = 10_000_000_000;
/// What a period leaves of what was before: half of it is gone after five minutes.
const SMOOTHING: f64 = 0.977;
const TARGET_MIN: f64 = 0.001;

/// The demand of a period, as integrals over time.
#[derive(Debug)]
pub struct Demand {
    now: f64,
    since: Nanos,
    seconds: f64,
    sum: f64,
    squares: f64,
    max: f64,
    pub figures: Figures,
}

/// What the last periods came to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    pub average: f64,
    pub deviation: f64,
    pub high: f64,
    pub smoothed: f64,
}

impl Demand {
    pub fn new(now: Nanos) -> Self {
        Demand { now: 0.0, since: now, seconds: 0.0, sum: 0.0, squares: 0.0, max: 0.0, figures: Figures::default() }
    }

    pub fn set(&mut self, seats: f64, now: Nanos) {
        let seconds = now.saturating_sub(self.since) as f64 / 1e9;
        self.since = self.since.max(now);
        self.seconds += seconds;
        self.sum += seconds * self.now;
        self.squares += seconds * self.now * self.now;
        self.now = seats;
        self.max = self.max.max(seats);
    }

    /// Ends a period, or as many of them as nobody looked.
    pub fn end_period(&mut self, now: Nanos) {
        self.set(self.now, now);
        let figures = &mut self.figures;
        figures.high = self.max;
        if self.seconds > 0.0 {
            figures.average = self.sum / self.seconds;
            figures.deviation = (self.squares / self.seconds - figures.average.powi(2)).max(0.0).sqrt();
            let envelope = figures.average + figures.deviation;
            let periods = (self.seconds / (PERIOD as f64 / 1e9)).max(1.0);
            let kept = SMOOTHING.powf(periods);
            figures.smoothed = envelope.max(kept * figures.smoothed + (1.0 - kept) * envelope);
        }
        (self.seconds, self.sum, self.squares, self.max) = (0.0, 0.0, 0.0, self.now);
    }
}

/// A level's bounds, derived from its configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    pub nominal: u64,
    pub lower: u64,
    pub upper: u64,
}

/// What a level asks for when the seats are given out anew.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    pub exempt: bool,
    pub bounds: Bounds,
    pub figures: Figures,
    pub current: u64,
}

impl Claim {
    fn least(&self) -> u64 {
        let high = self.figures.high.round() as u64;
        self.bounds.lower.max(if self.exempt { high } else { self.bounds.nominal.min(high) })
    }

    pub fn target(&self) -> f64 {
        (self.least() as f64).max(self.figures.smoothed)
    }
}

/// The seats of each level, in the order of the claims, and the fraction of its target that each gets.
pub fn share(claims: &[Claim]) -> (Vec<u64>, f64) {
    let total: u64 = claims.iter().map(|claim| claim.bounds.nominal).sum();
    let limited = || claims.iter().filter(|claim| !claim.exempt);
    let exempt: u64 = claims.iter().filter(|claim| claim.exempt).map(Claim::least).sum();
    let left = total.saturating_sub(exempt);
    let lower: u64 = limited().map(|claim| claim.bounds.lower).sum();
    let least: u64 = limited().map(Claim::least).sum();
    if left <= least {
        // Too little for what was used: what there is above the lower bounds is shared in proportion.
        let part = if left <= lower { 0.0 } else { (left - lower) as f64 / (least - lower) as f64 };
        let seats = |claim: &Claim| match claim.exempt {
            true => claim.least(),
            false => claim.bounds.lower + ((claim.least() - claim.bounds.lower) as f64 * part).round() as u64,
        };
        return (claims.iter().map(seats).collect(), 0.0);
    }
    let at = |claim: &Claim, fraction: f64| {
        let target = claim.target().max(TARGET_MIN);
        (fraction * target).clamp(claim.least() as f64, claim.bounds.upper.max(claim.least()) as f64)
    };
    // The sum grows with the fraction, from the lower bounds to the upper ones.
    let sum = |fraction: f64| limited().map(|claim| at(claim, fraction)).sum::<f64>();
    let (mut low, mut high) = (0.0, total as f64 / TARGET_MIN);
    if sum(high) < total as f64 {
        return (claims.iter().map(|claim| if claim.exempt { claim.least() } else { claim.current }).collect(), 0.0);
    }
    for _ in 0..80 {
        let middle = (low + high) / 2.0;
        if sum(middle) < total as f64 { low = middle } else { high = middle }
    }
    let seats = |claim: &Claim| if claim.exempt { claim.least() } else { at(claim, high).round() as u64 };
    (claims.iter().map(seats).collect(), high)
}
