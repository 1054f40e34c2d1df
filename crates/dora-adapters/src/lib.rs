//! dora-adapters: to be described.
