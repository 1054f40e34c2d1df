//! Tape autograd. An operation that has an input with a gradient records a node: its inputs' places on the tape and an
//! [`Op`] that holds what the backward pass needs. Numbers grow in order of execution, so the backward pass visits nodes
//! from the highest number down: every use of a tensor has then added its part before the tensor's own node is reached.
//! A node gives up its [`Op`] when visited, so kept activations are freed as the pass goes.

use crate::ops;
use crate::profile::{self, Direction};
use crate::{Error, Result, Tensor};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What an operation owes the tape.
pub trait Op: Send + 'static {
    /// Name for errors and profiles.
    fn name(&self) -> &'static str;

    /// Gradients of the loss by each recorded input, in the order of [`record`], given `grad`, that by the output.
    /// `needs` says which are wanted; the others may be `None`.
    fn backward(self: Box<Self>, grad: Tensor, needs: &[bool]) -> Result<Vec<Option<Tensor>>>;
}

/// Where a tensor's gradient goes.
#[derive(Clone)]
pub(crate) enum Edge {
    Leaf(Arc<GradientSlot>),
    Node(Arc<Node>),
}

/// Gradient of a leaf, summed over backward passes.
#[derive(Default)]
pub(crate) struct GradientSlot(pub(crate) Mutex<Option<Tensor>>);

pub(crate) struct Node {
    number: u64,
    /// Of the operands and the result.
    bytes: usize,
    inputs: Vec<Option<Edge>>,
    op: Mutex<Option<Box<dyn Op>>>,
}

static NEXT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static RECORDING: Cell<bool> = const { Cell::new(true) };
}

/// Runs `f` without recording on the tape of this thread.
pub fn no_grad<T>(f: impl FnOnce() -> T) -> T {
    with_recording(false, f)
}

fn with_recording<T>(on: bool, f: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            RECORDING.set(self.0);
        }
    }
    let _restore = Restore(RECORDING.replace(on));
    f()
}

/// Whether an operation over these inputs goes on the tape.
pub(crate) fn recording(inputs: &[&Tensor]) -> bool {
    RECORDING.get() && inputs.iter().any(|t| t.requires_grad())
}

/// Puts `output` on the tape as the result of `op` over `inputs`, if a gradient is due to one of them. `op` is built only
/// then, so nothing is kept otherwise. It must hold its inputs and output off the tape (`detach`).
pub fn record<O: Op>(output: Tensor, inputs: &[&Tensor], op: impl FnOnce() -> O) -> Tensor {
    let bytes = inputs.iter().map(|t| t.numel() * t.dtype().size()).sum::<usize>() + 4 * output.numel();
    profile::bytes(bytes);
    if !recording(inputs) {
        return output;
    }
    let node = Node {
        bytes,
        number: NEXT.fetch_add(1, Ordering::Relaxed),
        inputs: inputs.iter().map(|t| t.origin().cloned()).collect(),
        op: Mutex::new(Some(Box::new(op()))),
    };
    output.with_origin(Some(Edge::Node(Arc::new(node))))
}

impl Tensor {
    /// Adds to every leaf the gradient of this scalar.
    pub fn backward(&self) -> Result<()> {
        if self.numel() != 1 {
            return Err(Error::shape("backward", "loss", self.shape(), "one element"));
        }
        self.backward_from(Tensor::of(vec![1.0], self.shape()))
    }

    /// Adds to every leaf the gradient of a loss whose gradient by this tensor is `grad`.
    pub fn backward_from(&self, grad: Tensor) -> Result<()> {
        grad.expect_shape("backward", "gradient", self.shape())?;
        let mut pending = BTreeMap::new();
        if let Some(edge) = self.origin() {
            deliver(&mut pending, edge, grad)?;
        }
        while let Some((_, (node, grad))) = pending.pop_last() {
            let op = node.op.lock().expect("no backward pass panicked").take();
            let op = op.ok_or_else(|| Error::argument("backward", "the graph has already been walked"))?;
            let needs: Vec<bool> = node.inputs.iter().map(Option::is_some).collect();
            let name = op.name();
            let running = profile::operation(name, Direction::Backward);
            profile::bytes(node.bytes + 4 * grad.numel());
            let gradients = op.backward(grad, &needs)?;
            profile::bytes(gradients.iter().flatten().map(|g| 4 * g.numel()).sum());
            drop(running);
            if gradients.len() != needs.len() {
                return Err(Error::argument(name, format!("{} gradients for {} inputs", gradients.len(), needs.len())));
            }
            for (edge, gradient) in node.inputs.iter().zip(gradients) {
                if let (Some(edge), Some(gradient)) = (edge, gradient) {
                    deliver(&mut pending, edge, gradient)?;
                }
            }
        }
        Ok(())
    }
}

fn deliver(pending: &mut BTreeMap<u64, (Arc<Node>, Tensor)>, edge: &Edge, gradient: Tensor) -> Result<()> {
    match edge {
        Edge::Leaf(slot) => {
            let mut slot = slot.0.lock().expect("no backward pass panicked");
            *slot = Some(match slot.take() {
                Some(sum) => ops::add_in_place(sum, &gradient)?,
                None => gradient,
            });
        }
        Edge::Node(node) => {
            let sum = match pending.remove(&node.number) {
                Some((_, sum)) => ops::add_in_place(sum, &gradient)?,
                None => gradient,
            };
            pending.insert(node.number, (node.clone(), sum));
        }
    }
    Ok(())
}

/// Activation checkpointing: computes `f(x)` without keeping its intermediate results; the backward pass computes it again
/// and goes through it. Parameters used inside receive their gradients as usual. `f` must give the same result each time.
///
/// `active` says whether parameters inside `f` are trained, so that a block is recorded even when `x` has no gradient.
pub fn checkpoint(x: &Tensor, active: bool, f: impl Fn(&Tensor) -> Result<Tensor> + Send + 'static) -> Result<Tensor> {
    let output = no_grad(|| f(&x.detach()))?;
    if !RECORDING.get() || !(active || x.requires_grad()) {
        return Ok(output);
    }
    let anchor = Tensor::scalar(0.0).with_origin(Some(Edge::Leaf(Arc::default())));
    Ok(record(output, &[x, &anchor], || Checkpoint { x: x.detach(), f }))
}

struct Checkpoint<F> {
    x: Tensor,
    f: F,
}

impl<F: Fn(&Tensor) -> Result<Tensor> + Send + 'static> Op for Checkpoint<F> {
    fn name(&self) -> &'static str {
        "checkpoint"
    }

    fn backward(self: Box<Self>, grad: Tensor, needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let slot = Arc::<GradientSlot>::default();
        let x = if needs[0] { self.x.with_origin(Some(Edge::Leaf(slot.clone()))) } else { self.x };
        let output = with_recording(true, || (self.f)(&x))?;
        output.backward_from(grad)?;
        let dx = slot.0.lock().expect("no backward pass panicked").take();
        Ok(vec![dx, None])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{Input, gradcheck};
    use crate::ops::{Matrix, Pointwise, linear, pointwise, swiglu};
    use crate::{Parameter, Role};

    fn product(x: &Tensor, w: &Tensor) -> Result<Tensor> {
        let y = linear(x, &Matrix::Trained(w.clone()), None)?;
        pointwise(&Pointwise::ADD, &swiglu(&y, &y)?, &y)
    }

    #[test]
    fn a_tensor_used_many_times_receives_every_part() {
        let inputs = [Input::normal(1, 0, &[3, 5])];
        let f = |v: f64| v * v * v + v * v;
        gradcheck(
            &inputs,
            1e-6,
            |t| {
                let square = pointwise(&Pointwise::MUL, &t[0], &t[0])?;
                pointwise(&Pointwise::ADD, &pointwise(&Pointwise::MUL, &square, &t[0])?, &square)
            },
            |v| v[0].iter().map(|&v| f(v)).collect(),
        );
    }

    #[test]
    fn a_recomputed_block_gives_the_very_same_gradients() {
        let (x, w) = (Input::normal(2, 0, &[7, 5]).tensor(), Input::normal(2, 1, &[5, 5]).tensor());
        let run = |recompute: bool, leaf_x: bool| {
            let x = Parameter::new("x", Role::Matrix, x.clone()).unwrap();
            let w = Parameter::new("w", Role::Matrix, w.clone()).unwrap();
            let start = if leaf_x { x.tensor() } else { x.value() };
            let inner = w.clone();
            let block = move |x: &Tensor| product(x, &inner.tensor());
            let y = if recompute { checkpoint(&start, true, block) } else { block(&start) }.unwrap();
            let y = product(&y, &w.tensor()).unwrap();
            y.backward_from(Input::normal(2, 2, y.shape()).tensor()).unwrap();
            (y.to_vec(), w.take_gradient().unwrap().to_vec(), x.take_gradient().map(|g| g.to_vec()))
        };
        for leaf_x in [false, true] {
            assert_eq!(run(true, leaf_x), run(false, leaf_x));
            assert_eq!(run(true, leaf_x).2.is_some(), leaf_x);
        }
    }

    #[test]
    fn nothing_is_recorded_without_a_leaf_or_a_tape() {
        let w = Parameter::new("w", Role::Matrix, Input::normal(3, 0, &[5, 5]).tensor()).unwrap();
        let x = Input::normal(3, 1, &[2, 5]).tensor();
        assert!(!product(&x, &w.value()).unwrap().requires_grad());
        assert!(!no_grad(|| product(&x, &w.tensor())).unwrap().requires_grad());
        assert!(product(&x, &w.tensor()).unwrap().requires_grad());
    }

    #[test]
    fn a_graph_is_walked_once() {
        let w = Parameter::new("w", Role::Matrix, Input::normal(4, 0, &[5, 5]).tensor()).unwrap();
        let y = product(&Input::normal(4, 1, &[2, 5]).tensor(), &w.tensor()).unwrap();
        let ones = Tensor::from_vec(vec![1.0; 10], &[2, 5]).unwrap();
        y.backward_from(ones.clone()).unwrap();
        assert!(y.backward_from(ones).unwrap_err().to_string().contains("already been walked"));
    }
}
