//! What the backward pass needs of a forward pass: a tensor kept, the difference of two that are, or a recipe to compute it again. Norms, rotary embedding and
//! SwiGLU cost little next to the products around them, and a third of all activations are theirs.

use crate::ops::difference;
use crate::{Result, Tensor};
use std::sync::{Arc, Mutex};

/// How to compute a tensor again. Whoever needs it first computes it, and it stays until the last one is done with it.
pub(crate) struct Recipe {
    compute: Box<dyn Fn() -> Result<Tensor> + Send + Sync>,
    made: Mutex<Option<Tensor>>,
}

impl Recipe {
    /// Recipe that gives the very same elements each time.
    pub(crate) fn new(compute: impl Fn() -> Result<Tensor> + Send + Sync + 'static) -> Self {
        Recipe { compute: Box::new(compute), made: Mutex::new(None) }
    }
}

/// A tensor for the backward pass.
pub(crate) enum Saved {
    /// Itself.
    Kept(Tensor),
    /// How to compute it again.
    Again(Arc<Recipe>),
    /// The difference of two others, on the CPU.
    Difference(Tensor, Tensor),
}

impl Saved {
    /// The tensor, or the two whose difference it is: (after, before).
    pub(crate) fn terms(&self) -> Result<(Tensor, Option<Tensor>)> {
        match self {
            Saved::Difference(after, before) => Ok((after.clone(), Some(before.clone()))),
            _ => Ok((self.get()?, None)),
        }
    }

    /// The tensor, off the tape.
    pub(crate) fn get(&self) -> Result<Tensor> {
        match self {
            Saved::Kept(tensor) => Ok(tensor.clone()),
            Saved::Again(recipe) => {
                let mut made = recipe.made.lock().expect("no computation panicked");
                if made.is_none() {
                    *made = Some((recipe.compute)()?.detach());
                }
                Ok(made.clone().expect("just made"))
            }
            Saved::Difference(after, before) => difference(after, before),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Matrix, linear, swiglu};
    use crate::{Parameter, Role};

    /// A trained linear layer keeps its input, which is a SwiGLU product here: the recipe stands in, gives the same gradient,
    /// and is computed once for two layers.
    #[test]
    fn a_recipe_gives_what_was_there() {
        let input = |stream, shape: &[usize]| crate::gradcheck::Input::normal(1, stream, shape).tensor();
        let parameter = |stream, shape: &[usize]| Parameter::new("p", Role::Matrix, input(stream, shape)).unwrap();
        let (gate, w) = (parameter(0, &[3, 5]), parameter(1, &[2, 5]));
        let product = swiglu(&gate.tensor(), &input(2, &[3, 5])).unwrap();
        assert!(matches!(product.saved(), Saved::Again(_)) && matches!(product.detach().saved(), Saved::Kept(_)));
        assert_eq!(product.saved().get().unwrap().to_vec(), product.to_vec());
        let y = linear(&product, &Matrix::Trained(w.tensor()), None).unwrap();
        let dy = input(3, &[3, 2]);
        y.backward_from(dy.clone()).unwrap();
        let plain = parameter(1, &[2, 5]);
        let y = linear(&product.detach(), &Matrix::Trained(plain.tensor()), None).unwrap();
        y.backward_from(dy).unwrap();
        let want = plain.take_gradient().unwrap();
        assert_eq!(w.take_gradient().unwrap().to_vec(), want.to_vec());
        assert!(!swiglu(&gate.value(), &input(2, &[3, 5])).unwrap().requires_grad());
    }
}
