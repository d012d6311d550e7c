//! What control, helm and node stand on: decide from a [`World`], then do.
//!
//! A reconciler is a pure function `fn(&World, &Key, &mut Ctx) -> Plan` in a [`Row`]; the [`runner`] keeps the world
//! up to date by list and watch ([`io::reflector`]), calls the function for keys that changed, and executes its plan
//! through a [`io::Client`]. The API may be in this process or across a network: both are a [`io::Transport`].
//!
//! A reconciler never sees a state older than its own writes: what the API answers to a write enters the world at once.

pub mod backoff;
pub mod io;
mod plan;
mod references;
mod runner;
mod world;

pub use plan::{Action, AnyObject, DeleteOptions, Patch, Plan, Propagation, Reference, path};
pub use references::{owner, reference};
pub use runner::{Reconcile, Row, Runner, Shared, Trigger, WallClock};
pub use world::{Key, Objects, World};

/// What a decision may use besides the world.
pub struct Ctx {
    /// Nanoseconds since the Unix epoch.
    pub now_ns: i64,
    /// Feeds [`Ctx::random`].
    pub seed: u64,
    /// Why the last plan for this key failed, if it did (in the API's words): for conditions and events.
    pub failure: Option<String>,
}

impl Ctx {
    /// The next pseudo-random number (splitmix64): enough for names and jitter, not for secrets.
    pub fn random(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A name suffix as upstream's `rand.String(length)`: consonants and digits that make no words.
    pub fn suffix(&mut self, length: usize) -> String {
        const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        (0..length).map(|_| LETTERS[(self.random() % LETTERS.len() as u64) as usize] as char).collect()
    }

    /// Whole seconds since the Unix epoch.
    pub fn now_seconds(&self) -> i64 {
        self.now_ns.div_euclid(1_000_000_000)
    }
}
