//! Who is asking: the implementations of [`crate::seams::Authenticate`].
