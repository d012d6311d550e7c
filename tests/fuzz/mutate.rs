//! Broken input from good: for the fuzz tests of all rooms, which take this file in by its path.
//!
//! Each test tries a bounded number of inputs from a fixed seed; `FUZZ_ROUNDS=100000 FUZZ_SEED=7 cargo test fuzz`
//! tries more, and others. What fails is printed with its seed and round, and fails again with these.

/// Numbers from a seed (xorshift64*).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize) % n.max(1)
    }
}

/// What decoders stumble on.
const WORDS: [&[u8]; 22] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b":",
    b",",
    b"null",
    b"-1",
    b"1e999",
    b"9223372036854775808",
    b"\xff\xfe",
    b"\0",
    b"\\ud800",
    b"&a",
    b"*a",
    b"!!",
    b"%2e%2e",
    b"$patch",
    b"~1",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\r\n\r\n",
];

/// A seed with one to four changes: bits, bytes, cuts, repetitions, words, parts of another seed.
pub fn mutate(dice: &mut Dice, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[dice.below(seeds.len())].clone();
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len() + 1);
        let end = at + dice.below((bytes.len() - at).min(40) + 1);
        match dice.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            1 => drop(bytes.drain(at..end)),
            2 => bytes.truncate(at),
            3 => {
                let part = bytes[at..end].repeat(1 + dice.below(300));
                bytes.splice(at..at, part);
            }
            4 => drop(bytes.splice(at..end, WORDS[dice.below(WORDS.len())].iter().copied()).collect::<Vec<_>>()),
            5 => {
                let other = &seeds[dice.below(seeds.len())];
                let from = dice.below(other.len() + 1);
                let part = &other[from..(from + dice.below(200)).min(other.len())];
                bytes.splice(at..at, part.iter().copied());
            }
            _ => bytes.insert(at, dice.below(256) as u8),
        }
    }
    bytes.truncate(1 << 16);
    bytes
}

/// Calls `check` with mutated seeds; what is in hand when it panics is printed.
pub fn rounds(what: &str, default: u64, seeds: &[Vec<u8>], mut check: impl FnMut(&mut Dice, Vec<u8>)) {
    struct InHand<'a>(&'a str, u64, u64, Vec<u8>);
    impl Drop for InHand<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                let InHand(what, seed, round, bytes) = self;
                let start = String::from_utf8_lossy(&bytes[..bytes.len().min(400)]).into_owned();
                eprintln!("fuzz: {what} failed with FUZZ_SEED={seed} in round {round}: {start:?}");
            }
        }
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = number("FUZZ_SEED").unwrap_or(1);
    for round in 0..number("FUZZ_ROUNDS").unwrap_or(default) {
        let mut dice = Dice::new(seed.wrapping_mul(1_000_003).wrapping_add(round));
        let bytes = mutate(&mut dice, seeds);
        let in_hand = InHand(what, seed, round, bytes.clone());
        check(&mut dice, bytes);
        drop(in_hand);
    }
}
