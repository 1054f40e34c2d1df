//! Trainable tensors.

use crate::tape::{Edge, GradientSlot};
use crate::{DType, Error, Result, Tensor};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

/// What a parameter is, which decides how it is optimised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// A matrix of a product: decays.
    Matrix,
    /// The B of a low-rank update: a matrix that may have its own learning rate (LoRA+).
    LowRankB,
    /// A bias or a norm's weight: no weight decay.
    Vector,
    /// DoRA's magnitude m: own learning rate, no weight decay.
    Magnitude,
}

/// A trainable `f32` tensor with its gradient. Cloning shares both.
#[derive(Clone)]
pub struct Parameter(Arc<Inner>);

struct Inner {
    name: String,
    role: Role,
    value: RwLock<Tensor>,
    gradient: Arc<GradientSlot>,
    version: AtomicU64,
}

impl Parameter {
    /// Parameter of that name (as in a checkpoint or adapter file) and value.
    pub fn new(name: impl Into<String>, role: Role, value: Tensor) -> Result<Self> {
        expect_f32("parameter", &value)?;
        Ok(Parameter(Arc::new(Inner {
            name: name.into(),
            role,
            value: RwLock::new(value.detach()),
            gradient: Arc::default(),
            version: AtomicU64::new(0),
        })))
    }

    /// Name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Role.
    pub fn role(&self) -> Role {
        self.0.role
    }

    /// The value as a leaf of the tape.
    pub fn tensor(&self) -> Tensor {
        self.value().with_origin(Some(Edge::Leaf(self.0.gradient.clone())))
    }

    /// The value off the tape.
    pub fn value(&self) -> Tensor {
        self.0.value.read().expect("no update panicked").clone()
    }

    /// Number of updates so far; results computed from the value are good as long as this stays.
    pub fn version(&self) -> u64 {
        self.0.version.load(Ordering::Acquire)
    }

    /// The gradient summed since it was last taken.
    pub fn gradient(&self) -> Option<Tensor> {
        self.0.gradient.0.lock().expect("no backward pass panicked").clone()
    }

    /// Takes the gradient away, leaving none.
    pub fn take_gradient(&self) -> Option<Tensor> {
        self.0.gradient.0.lock().expect("no backward pass panicked").take()
    }

    /// Changes the value in place, in the processor's memory.
    pub fn update(&self, f: impl FnOnce(&mut [f32])) {
        let mut value = self.0.value.write().expect("no update panicked");
        f(value.make_mut());
        self.0.version.fetch_add(1, Ordering::AcqRel);
    }

    /// Changes the values of several parameters, no two the same, in place, wherever they are.
    pub(crate) fn change_together(
        parameters: &[&Parameter],
        f: impl FnOnce(Vec<&mut Tensor>) -> Result<()>,
    ) -> Result<()> {
        let locked = parameters.iter().map(|parameter| parameter.0.value.write().expect("no update panicked"));
        let mut values: Vec<_> = locked.collect();
        f(values.iter_mut().map(|value| &mut **value).collect())?;
        for parameter in parameters {
            parameter.0.version.fetch_add(1, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Replaces the value by one of the same shape.
    pub fn set(&self, value: Tensor) -> Result<()> {
        let mut slot = self.0.value.write().expect("no update panicked");
        if value.shape() != slot.shape() {
            return Err(Error::shape("set", "value", value.shape(), format!("{:?}", slot.shape())));
        }
        expect_f32("set", &value)?;
        *slot = value.detach();
        self.0.version.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }
}

fn expect_f32(op: &'static str, value: &Tensor) -> Result<()> {
    match value.dtype() {
        DType::F32 => Ok(()),
        found => Err(Error::DType { op, found, expected: DType::F32 }),
    }
}
