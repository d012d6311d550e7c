//! The crate from outside, against what upstream's own code prints.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod suite {
    mod answers;
    mod fuzz;
    mod objects;
    mod upstream;
}
