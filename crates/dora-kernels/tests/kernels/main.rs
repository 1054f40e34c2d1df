//! Every kernel on the host driver, against f64 references: awkward sizes, both element types, three scheduling seeds.

mod adamw;
mod cast;
mod dropout;
mod embedding;
mod pointwise;
mod reduce;
mod rms_norm;
mod rope;
mod shim;
mod signatures;
mod support;
mod swiglu;
