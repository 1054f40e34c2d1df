//! Every kernel on the host driver, against f64 references: awkward sizes, both element types, three scheduling seeds.

mod adamw;
mod attention;
mod attention_case;
mod cast;
mod cross_entropy;
mod dora;
mod dora_norms;
mod dropout;
mod embedding;
mod gemm;
mod low_rank;
mod nf4;
mod nf4_codec;
mod pointwise;
mod reduce;
mod rms_norm;
mod rope;
mod shim;
mod signatures;
mod support;
mod swiglu;
mod timed;
mod traffic;
