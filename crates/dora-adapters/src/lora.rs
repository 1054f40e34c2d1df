//! LoRA in place of a linear layer: y = x·Wᵀ + s·dropout(x)·Aᵀ·Bᵀ + b.

use crate::inject::Layer;
use dora_models::linear::{Pass, Projection};
use dora_tensor::ops::lora_linear;
use dora_tensor::{Result, Tensor};

/// LoRA over a frozen layer.
pub(crate) struct Lora(pub(crate) Layer);

impl Projection for Lora {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        lora_linear(x, &self.0.weight, self.0.bias.as_ref(), &self.0.update(pass)?)
    }
}
