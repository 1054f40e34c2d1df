//! DoRA in place of a linear layer: y = g ⊙ (x·Wᵀ + s·x·Aᵀ·Bᵀ) + b, g = m/‖W + sBA‖ per output row. The norms depend on A
//! and B alone, so they are computed once after each update of these, not for each micro-batch or recomputation.

use crate::inject::Layer;
use dora_models::linear::{Pass, Projection};
use dora_tensor::ops::{NormGradient, Norms, NormsOf, dora_linear_with, dora_norms, dora_norms_together};
use dora_tensor::{Parameter, Result, Tensor};
use std::sync::{Arc, Mutex};

/// DoRA over a frozen layer.
pub(crate) struct Dora {
    normed: Arc<Normed>,
    group: Arc<Group>,
    magnitude: Parameter,
    norm_gradient: NormGradient,
}

/// A layer and the norms of its rows.
struct Normed {
    layer: Layer,
    /// ‖W‖² (out).
    base: Tensor,
    norms: Mutex<Option<Cached>>,
}

/// Norms (out), and the versions of A and B that they belong to.
struct Cached {
    versions: [u64; 2],
    norms: Tensor,
}

impl Normed {
    fn versions(&self) -> [u64; 2] {
        [self.layer.a.version(), self.layer.b.version()]
    }

    /// The norms, if A and B are still those that they were computed from.
    fn known(&self) -> Option<Tensor> {
        let (cached, versions) = (self.norms.lock().expect("no pass panicked"), self.versions());
        cached.as_ref().filter(|cached| cached.versions == versions).map(|cached| cached.norms.clone())
    }

    fn keep(&self, versions: [u64; 2], norms: Tensor) {
        *self.norms.lock().expect("no pass panicked") = Some(Cached { versions, norms });
    }
}

/// The DoRA layers of an adapter. On a device that holds their weights as products read them, the norms of all are computed
/// together when the first is asked for.
#[derive(Default)]
pub(crate) struct Group(Mutex<Vec<Arc<Normed>>>);

impl Group {
    /// Computes what is out of date.
    fn refresh(&self) -> Result<()> {
        let layers = self.0.lock().expect("no pass panicked");
        let (mut stale, mut wanted) = (Vec::new(), Vec::new());
        for normed in layers.iter().filter(|normed| normed.known().is_none()) {
            let Some(weight) = normed.layer.weight.resident() else { continue };
            stale.push((normed, normed.versions()));
            wanted.push(NormsOf { weight, update: normed.layer.plain_update(), base: &normed.base });
        }
        for ((normed, versions), norms) in stale.into_iter().zip(dora_norms_together(&wanted)?) {
            normed.keep(versions, norms);
        }
        Ok(())
    }
}

impl Dora {
    pub(crate) fn new(
        layer: Layer,
        group: &Arc<Group>,
        magnitude: Parameter,
        base: Tensor,
        norm_gradient: NormGradient,
    ) -> Self {
        let normed = Arc::new(Normed { layer, base, norms: Mutex::new(None) });
        group.0.lock().expect("no pass panicked").push(normed.clone());
        Dora { normed, group: group.clone(), magnitude, norm_gradient }
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
        let Normed { layer, base, .. } = &*self.normed;
        let versions = self.normed.versions();
        let mut known = self.normed.known();
        if known.is_none() && layer.weight.resident().is_some() {
            self.group.refresh()?;
            known = self.normed.known();
        }
        let source = known.as_ref().map_or(Norms::From(base), Norms::Known);
        let (update, m) = (layer.update(pass)?, self.magnitude.tensor());
        let (weight, bias) = (&layer.weight, layer.bias.as_ref());
        let (y, norms) = dora_linear_with(x, weight, bias, &update, &m, source, self.norm_gradient)?;
        if known.is_none() {
            self.normed.keep(versions, norms);
        }
        Ok(y)
    }
}
