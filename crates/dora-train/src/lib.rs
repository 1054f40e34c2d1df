//! dora-train: to be described.
