//! dora-tensor: to be described.
