//! A model over a batch: hidden states, logits, loss, gradients.

use std::collections::BTreeMap;
use std::path::Path;

use dora_models::linear::Pass;
use dora_models::model::{Architecture, LoadOptions, Model};
use dora_tensor::ops::cross_entropy;
use dora_tensor::{Parameter, Tensor};

use crate::Batch;

/// What a forward pass gave.
pub struct Run {
    /// (T, C), behind the final norm.
    pub hidden: Tensor,
    /// (T, V).
    pub logits: Tensor,
    /// (1), on the tape.
    pub loss: Tensor,
}

/// Loads the model in a folder, whatever its architecture.
pub fn load(dir: &Path, options: LoadOptions) -> Box<dyn Model> {
    Architecture::of(dir).unwrap().load(dir, options).unwrap()
}

/// Loads it frozen, in the precision it is stored in.
pub fn load_frozen(dir: &Path) -> Box<dyn Model> {
    load(dir, LoadOptions::default())
}

/// One forward pass.
pub fn run(model: &dyn Model, batch: &Batch, pass: &Pass) -> Run {
    let hidden = model.hidden(&batch.input_ids, pass).unwrap();
    let head = model.head();
    let logits = head.apply(&hidden.detach()).unwrap();
    let loss = cross_entropy(&hidden, &head, &batch.targets, batch.labelled_tokens).unwrap();
    Run { hidden, logits, loss }
}

/// The logits of a pass without dropout.
pub fn logits(model: &dyn Model, batch: &Batch) -> Tensor {
    run(model, batch, &batch.pass()).logits
}

/// The gradient of the loss of a pass by each parameter, by the parameter's name.
pub fn gradients(model: &dyn Model, parameters: &[Parameter], batch: &Batch, pass: &Pass) -> BTreeMap<String, Tensor> {
    run(model, batch, pass).loss.backward().unwrap();
    let gradient = |p: &Parameter| (p.name().to_owned(), p.take_gradient().expect("every parameter takes part"));
    let gradients: BTreeMap<_, _> = parameters.iter().map(gradient).collect();
    assert_eq!(gradients.len(), parameters.len(), "names are unique");
    gradients
}
