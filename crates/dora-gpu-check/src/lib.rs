//! What a machine with a GPU has to show, in one program that is carried there: every kernel against the processor's operation, speed
//! against ceilings that are measured beside it, and the time of training steps, PEFT's as well where Python has it.
//!
//! * [`checks`]: kernels against the CPU. They run on any driver: a test runs them on the host driver.
//! * [`speed`]: bandwidth and products, and what each kernel reaches of them.
//! * [`steps`]: steps of `dora train` and of PEFT at published shapes.
//! * [`floors`]: what the figures have to reach.
//! * [`synth`]: checkpoints of a published shape with random weights.

pub mod checks;
pub mod floors;
pub mod speed;
pub mod steps;
pub mod synth;
