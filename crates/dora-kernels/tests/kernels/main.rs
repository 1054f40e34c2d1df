//! Every kernel on the host driver, against f64 references: awkward sizes, both element types, three scheduling seeds.

mod cross_entropy;
mod dora;
mod dora_norms;
mod nf4;
mod rms_norm;
mod shim;
mod support;
