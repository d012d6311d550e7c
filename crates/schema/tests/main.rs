//! The crate from outside, against what upstream's own code prints.

mod suite {
    mod objects;
    mod upstream;
}
