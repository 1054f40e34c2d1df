//! A linear layer and its two seams: the weight's precision is behind [`Weight`], and what the layer computes with it can be
//! replaced by a [`Projection`] that a walk over the model puts in place.

use dora_tensor::ops::{Documents, Matrix, Positions, RowIds, linear};
use dora_tensor::{Parameter, Result, Tensor, Weight};
use std::fmt;
use std::sync::Arc;

use crate::shape::LinearShape;

/// What all layers of one forward pass share.
#[derive(Debug, Clone)]
pub struct Pass {
    /// The documents that the tokens belong to.
    pub documents: Arc<Documents>,
    /// Position of each token within its document.
    pub positions: Arc<Positions>,
    /// In training, where masks are drawn from; `None` leaves everything in.
    pub dropout: Option<DropoutSource>,
    /// Compute each block again in the backward pass instead of keeping its activations.
    pub recompute_blocks: bool,
    /// Rows whose last hidden states are wanted, at least one: behind the last attention nothing else is computed. `None`: all.
    pub wanted: Option<Arc<RowIds>>,
}

/// Address of a pass's random numbers; a layer adds its own number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropoutSource {
    /// Seed of the run.
    pub seed: u64,
    /// Number of the micro-step.
    pub step: u64,
}

impl Pass {
    /// A pass without dropout over documents of those lengths.
    pub fn new(lengths: &[usize]) -> Self {
        Self::over(Documents::new(lengths))
    }

    /// A pass without dropout over documents.
    pub fn over(documents: Documents) -> Self {
        let positions = Arc::new(documents.positions().into());
        Pass { documents: Arc::new(documents), positions, dropout: None, recompute_blocks: false, wanted: None }
    }
}

/// A linear layer of a model.
pub struct Linear {
    shape: LinearShape,
    base: Base,
    projection: Option<Box<dyn Projection>>,
}

/// What a linear layer may compute instead of x·Wᵀ + b.
pub trait Projection: Send + Sync {
    /// (n, in) → (n, out).
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor>;
}

/// Weight and bias as they were loaded.
pub enum Base {
    /// Neither is trained; the bias is `f32`.
    Frozen {
        /// W (out, in).
        weight: Arc<dyn Weight>,
        /// b (out).
        bias: Option<Tensor>,
    },
    /// Both are.
    Trained {
        /// W (out, in).
        weight: Parameter,
        /// b (out).
        bias: Option<Parameter>,
    },
}

impl Linear {
    /// Layer of that shape.
    pub fn new(shape: LinearShape, base: Base) -> Self {
        Linear { shape, base, projection: None }
    }

    /// Path and sizes.
    pub fn shape(&self) -> &LinearShape {
        &self.shape
    }

    /// Weight and bias.
    pub fn base(&self) -> &Base {
        &self.base
    }

    /// Has `projection` compute the layer from now on.
    pub fn replace(&mut self, projection: Box<dyn Projection>) {
        self.projection = Some(projection);
    }

    /// Computes the layer itself again.
    pub fn restore(&mut self) {
        self.projection = None;
    }

    /// (n, in) → (n, out).
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        match (&self.projection, &self.base) {
            (Some(projection), _) => projection.forward(x, pass),
            (None, Base::Frozen { weight, bias }) => linear(x, &Matrix::Frozen(weight.clone()), bias.as_ref()),
            (None, Base::Trained { weight, bias }) => {
                let bias = bias.as_ref().map(Parameter::tensor);
                linear(x, &Matrix::Trained(weight.tensor()), bias.as_ref())
            }
        }
    }
}

impl fmt::Debug for Linear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Linear({} {} -> {})", self.shape.path, self.shape.in_features, self.shape.out_features)
    }
}
