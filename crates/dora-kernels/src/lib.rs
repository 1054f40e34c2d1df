//! dora-kernels: to be described.
