//! May they: the implementations of [`crate::seams::Authorize`].
