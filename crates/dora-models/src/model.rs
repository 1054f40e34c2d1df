//! What a decoder language model can do, whatever its architecture, and the registry of architectures by `model_type`.

use std::path::Path;

use dora_tensor::ops::Matrix;
use dora_tensor::{DType, Device, Parameter, Tensor};
use serde_json::json;

use crate::config::{self, LlamaConfig};
use crate::error::{Error, Result};
use crate::generate::Cache;
use crate::linear::{Linear, Pass};
use crate::llama::Llama;
use crate::nf4::WeightOptions;
use crate::shape::ModelShape;

/// A decoder language model.
pub trait Model: Send + Sync {
    /// Linear layers and the parameter count.
    fn shape(&self) -> &ModelShape;

    /// Longest context, in tokens.
    fn context(&self) -> usize;

    /// Rows of the embedding.
    fn vocab_size(&self) -> usize;

    /// Tokens that end generation, as the model's files have it.
    fn eos_token_ids(&self) -> &[u32];

    /// Every linear layer that an adapter may take, in the order of [`ModelShape::linears`].
    fn linears_mut(&mut self) -> Vec<&mut Linear>;

    /// Every trained parameter of the model itself (none when it is frozen), under its name in a checkpoint.
    fn parameters(&self) -> Vec<Parameter>;

    /// The last hidden states (n, C), behind the final norm, of a batch of documents, or of the rows of it that
    /// [`Pass::wanted`] names.
    fn hidden(&self, input_ids: &[u32], pass: &Pass) -> dora_tensor::Result<Tensor>;

    /// The output embedding (V, C): logits are hidden·Wᵀ.
    fn head(&self) -> Matrix;

    /// An empty cache for one document of at most `capacity` tokens.
    fn cache(&self, capacity: usize) -> dora_tensor::Result<Cache>;

    /// Hidden states of the next tokens of the document in the cache, which grows by them; off the tape.
    fn extend(&self, input_ids: &[u32], cache: &mut Cache) -> dora_tensor::Result<Tensor>;
}

/// How a model loads.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadOptions {
    /// Precision of frozen weights. Embeddings, output embedding and norms are never in 4 bits, as in bitsandbytes.
    pub weights: WeightOptions,
    /// Load every weight as a trained `f32` parameter.
    pub trained: bool,
    /// Where the model lies and computes.
    pub device: Device,
}

impl LoadOptions {
    /// Precision of frozen dense weights: as asked for or, on a device, the type that its products read.
    pub fn dtype(&self) -> Option<DType> {
        self.weights.dtype.or(match self.device {
            Device::Cpu => None,
            Device::Cuda(gpu) => Some(gpu.activations()),
        })
    }
}

/// An architecture: what `config.json` says, and how to load it.
pub struct Architecture {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// Linear layers that adapters go on when nothing is said, as in PEFT.
    pub default_targets: &'static [&'static str],
    read: fn(&Path) -> Result<Description>,
    load: fn(&Path, LoadOptions) -> Result<Box<dyn Model>>,
}

/// What the configuration of a model says.
#[derive(Debug, Clone)]
pub struct Description {
    /// Linear layers, the parameter count, and what training keeps.
    pub shape: ModelShape,
    /// Longest context, in tokens.
    pub context: usize,
    /// Type that the weights are said to be stored in; their files decide.
    pub dtype: Option<DType>,
    /// Fields of `config.json` that nobody here knows; transformers ignores them too.
    pub unknown_fields: Vec<String>,
}

const ARCHITECTURES: &[Architecture] = &[Architecture {
    model_type: "llama",
    default_targets: &["q_proj", "v_proj"],
    read: |dir| LlamaConfig::read(dir).map(Description::from),
    load: |dir, options| Ok(Box::new(Llama::load(dir, options)?)),
}];

impl From<LlamaConfig> for Description {
    fn from(config: LlamaConfig) -> Self {
        let (shape, context) = (config.shape(), config.max_position_embeddings);
        Description { shape, context, dtype: config.dtype, unknown_fields: config.unknown_fields }
    }
}

impl Architecture {
    /// The architecture of the model in a folder.
    pub fn of(dir: &Path) -> Result<&'static Architecture> {
        let found = config::model_type(dir)?;
        ARCHITECTURES.iter().find(|a| a.model_type == found).ok_or_else(|| {
            let known: Vec<&str> = ARCHITECTURES.iter().map(|a| a.model_type).collect();
            Error::Config {
                path: dir.join("config.json"),
                field: "model_type".into(),
                found: json!(found).to_string(),
                expected: known.join(" or "),
            }
        })
    }

    /// What `config.json` of the folder says; its weights are not touched.
    pub fn read(&self, dir: &Path) -> Result<Description> {
        (self.read)(dir)
    }

    /// Loads the model.
    pub fn load(&self, dir: &Path, options: LoadOptions) -> Result<Box<dyn Model>> {
        (self.load)(dir, options)
    }
}
