//! What the figures have to reach on a GPU: three kernels' share of the copy's bandwidth, and DoRA's step beside LoRA's and PEFT's.

use serde::Serialize;

use crate::speed::Speed;
use crate::steps::Step;

/// Kernels that have to reach `SHARE` of the copy.
const KERNELS: [&str; 3] = ["nf4_dequantize_bf16", "low_rank_compose_bf16", "dora_backward_bf16"];
const SHARE: f64 = 0.8;
/// Most that a DoRA step may take of a LoRA step.
const OVER_LORA: f64 = 1.05;
/// Least that PEFT's DoRA step has to take of ours.
const OVER_OURS: f64 = 1.8;

/// A figure and what it has to reach.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Floor {
    /// What is compared.
    pub name: String,
    /// The figure, where it was measured.
    pub found: Option<f64>,
    /// Least, or most, that it may be.
    pub bound: f64,
    /// Whether the bound is the most.
    pub at_most: bool,
}

impl Floor {
    /// Whether the figure was measured and does not reach its bound.
    pub fn missed(&self) -> bool {
        self.found.is_some_and(|found| if self.at_most { found > self.bound } else { found < self.bound })
    }
}

/// All floors, for the shapes that steps were asked for.
pub fn all(speeds: &[Speed], steps: &[Step], shapes: &[&str]) -> Vec<Floor> {
    let share = |kernel: &&str| Floor {
        name: format!("{kernel}, share of the copy's bandwidth"),
        found: speeds.iter().find(|speed| speed.kernel == *kernel).map(|speed| speed.share),
        bound: SHARE,
        at_most: false,
    };
    let mut floors: Vec<Floor> = KERNELS.iter().map(share).collect();
    for shape in shapes {
        let seconds = |program: &str, method: &str| {
            let of = |step: &&Step| step.shape == *shape && step.program == program && step.method == method;
            steps.iter().find(of).and_then(|step| step.seconds)
        };
        let ratio = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| a / b);
        let ours = seconds("dora", "dora");
        floors.push(Floor {
            name: format!("{shape}: DoRA step over LoRA step"),
            found: ratio(ours, seconds("dora", "lora")),
            bound: OVER_LORA,
            at_most: true,
        });
        floors.push(Floor {
            name: format!("{shape}: PEFT's DoRA step over ours"),
            found: ratio(seconds("peft", "dora"), ours),
            bound: OVER_OURS,
            at_most: false,
        });
    }
    floors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(program: &'static str, method: &'static str, seconds: Option<f64>) -> Step {
        Step { shape: "a", program, method, seconds, tokens_per_s: None, reason: None }
    }

    #[test]
    fn what_was_not_measured_is_neither_held_nor_missed() {
        let speed =
            |kernel: &str, share| Speed { kernel: kernel.to_owned(), us: 1.0, gb_s: Some(1.0), tflop_s: None, share };
        let speeds = [speed(KERNELS[0], 0.79), speed(KERNELS[1], 0.81)];
        let steps = [step("dora", "dora", Some(1.06)), step("dora", "lora", Some(1.0)), step("peft", "dora", None)];
        let floors = all(&speeds, &steps, &["a"]);
        let outcome: Vec<_> = floors.iter().map(|floor| (floor.found.is_some(), floor.missed())).collect();
        assert_eq!(outcome, [(true, true), (true, false), (false, false), (true, true), (false, false)]);
    }
}
