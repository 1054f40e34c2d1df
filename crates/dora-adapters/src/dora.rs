//! DoRA in place of a linear layer: y = g ⊙ (x·Wᵀ + s·x·Aᵀ·Bᵀ) + b, g = m/‖W + sBA‖ per output row. The norms depend on A
//! and B alone, so they are computed once after each update of these, not for each micro-batch or recomputation.

use crate::inject::Layer;
use dora_models::linear::{Pass, Projection};
use dora_tensor::ops::{NormGradient, Norms, dora_linear_with, dora_norms};
use dora_tensor::{Parameter, Result, Tensor};
use std::sync::Mutex;

/// DoRA over a frozen layer.
pub(crate) struct Dora {
    layer: Layer,
    magnitude: Parameter,
    /// ‖W‖² (out).
    base: Tensor,
    norm_gradient: NormGradient,
    norms: Mutex<Option<Cached>>,
}

/// Norms (out), and the versions of A and B that they belong to.
struct Cached {
    versions: [u64; 2],
    norms: Tensor,
}

impl Dora {
    pub(crate) fn new(layer: Layer, magnitude: Parameter, base: Tensor, norm_gradient: NormGradient) -> Self {
        Dora { layer, magnitude, base, norm_gradient, norms: Mutex::new(None) }
    }

    /// ‖W‖² and ‖W + sBA‖ (out) of a layer, as its forward pass sees them.
    pub(crate) fn norms(layer: &Layer) -> Result<(Tensor, Tensor)> {
        let base = layer.weight.row_norms_squared()?;
        let norms = dora_norms(&layer.weight, &layer.plain_update(), &base)?;
        Ok((base, norms))
    }
}

impl Projection for Dora {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let Layer { weight, bias, a, b, .. } = &self.layer;
        let versions = [a.version(), b.version()];
        let known = self
            .norms
            .lock()
            .expect("no pass panicked")
            .as_ref()
            .filter(|c| c.versions == versions)
            .map(|c| c.norms.clone());
        let source = known.as_ref().map_or(Norms::From(&self.base), Norms::Known);
        let (update, m) = (self.layer.update(pass)?, self.magnitude.tensor());
        let (y, norms) = dora_linear_with(x, weight, bias.as_ref(), &update, &m, source, self.norm_gradient)?;
        if known.is_none() {
            *self.norms.lock().expect("no pass panicked") = Some(Cached { versions, norms });
        }
        Ok(y)
    }
}
