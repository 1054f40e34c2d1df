//! AdamW over parameters in groups by role: matrices decay, and the B of a low-rank update may have its own learning rate (LoRA+,
//! Hayou et al., 2024, arXiv 2402.12354); vectors do not decay; DoRA's magnitudes have their own learning rate and do not decay. Before a step the gradients' common norm is clipped as PyTorch's `clip_grad_norm_` does it.

use dora_tensor::ops::{AdamW, Clip, Figures, Moments, Update, adamw};
use dora_tensor::{Parameter, Role, Tensor};

use crate::error::{Error, Result};

/// Settings of the optimizer; β = (0.9, 0.999), ε = 1e-8, as PyTorch has them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptimizerOptions {
    /// Learning rate at its height.
    pub lr: f64,
    /// That of B.
    pub lr_b: f64,
    /// That of the magnitudes.
    pub lr_magnitude: f64,
    /// Weight decay of the matrices.
    pub weight_decay: f64,
    /// Whether the magnitudes decay too, as in PEFT.
    pub magnitudes_decay: bool,
    /// Norm that the gradients are clipped to; 0 leaves them alone.
    pub max_grad_norm: f64,
}

/// AdamW's state.
pub struct Optimizer {
    options: OptimizerOptions,
    slots: Vec<(Parameter, Moments)>,
    step: u64,
}

impl Optimizer {
    /// Optimizer that has made no step.
    pub fn new(parameters: &[Parameter], options: OptimizerOptions) -> Result<Self> {
        let slots = parameters.iter().map(|p| Ok((p.clone(), Moments::new(p)?)));
        Ok(Optimizer { options, slots: slots.collect::<Result<_>>()?, step: 0 })
    }

    /// Makes a step with the gradients that have come together in passes with those losses, at learning rates times `factor`, and
    /// gives loss and norm. A parameter without a gradient stays. Where loss or norm is not finite, nothing changes.
    pub fn step(&mut self, losses: &[Tensor], factor: f64) -> Result<Figures> {
        let gradients: Vec<Option<Tensor>> =
            self.slots.iter().map(|(parameter, _)| parameter.take_gradient()).collect();
        let present: Vec<Tensor> = gradients.iter().flatten().cloned().collect();
        let clip = Clip::new(losses, &present, self.options.max_grad_norm)?;
        let OptimizerOptions { lr, lr_b, lr_magnitude, weight_decay, magnitudes_decay, .. } = self.options;
        let step = self.step + 1;
        let settings = |role: Role| {
            let (lr, weight_decay) = match role {
                Role::Matrix => (lr, weight_decay),
                Role::LowRankB => (lr_b, weight_decay),
                Role::Vector => (lr, 0.0),
                Role::Magnitude => (lr_magnitude, if magnitudes_decay { weight_decay } else { 0.0 }),
            };
            AdamW { lr: lr * factor, weight_decay, betas: [0.9, 0.999], eps: 1e-8, step }
        };
        let mut updates = Vec::with_capacity(present.len());
        for ((parameter, moments), gradient) in self.slots.iter_mut().zip(&gradients) {
            let Some(gradient) = gradient else { continue };
            updates.push(Update { settings: settings(parameter.role()), parameter, gradient, moments });
        }
        adamw(&mut updates, &clip)?;
        // A device is asked once, when all of the step is queued.
        let figures = clip.figures()?;
        for (what, value) in [("the loss", figures.loss), ("the gradients' norm", figures.norm)] {
            if !value.is_finite() {
                return Err(Error::NotFinite { what, value });
            }
        }
        self.step = step;
        Ok(figures)
    }
}
