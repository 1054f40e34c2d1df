//! Every kernel on the host driver, against f64 references: awkward sizes, both element types, three scheduling seeds.

mod rms_norm;
mod shim;
mod support;
