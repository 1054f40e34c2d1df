//! Llama (Touvron et al., 2023; Llama 2, 3, 3.1 and their kin): a residual stream x (n, C) through blocks
//! x += o(attention(rope(q), rope(k), v)) and x += down(silu(gate) ⊙ up), each behind an RMSNorm, then a final norm.
//! Tensor names are Hugging Face's.

use std::path::Path;
use std::sync::{Arc, RwLock};

use dora_tensor::ops::{
    AttentionShape, Documents, Matrix, RopeTable, RowIds, attention, attention_cached, embedding, index_select,
    residual, rms_norm, rope, swiglu, widest_norm,
};
use dora_tensor::{DenseWeight, Device, Parameter, Role, Tensor, Weight, checkpoint, no_grad};

use crate::checkpoint::Checkpoint;
use crate::config::LlamaConfig;
use crate::error::{Error, Result};
use crate::generate::Cache;
use crate::linear::{Base, Linear, Pass};
use crate::model::{LoadOptions, Model};
use crate::nf4::{self, WeightOptions};
use crate::shape::{LinearShape, ModelShape};

/// A Llama model.
pub struct Llama {
    config: LlamaConfig,
    shape: ModelShape,
    embed_tokens: Vector,
    blocks: Vec<Arc<Block>>,
    norm: Vector,
    lm_head: Head,
    rope: RwLock<Arc<RopeTable>>,
    parameters: Vec<Parameter>,
    device: Device,
}

struct Block {
    input_layernorm: Vector,
    /// q, k, v, o, gate, up, down.
    linears: [Linear; 7],
    post_attention_layernorm: Vector,
    heads: AttentionShape,
    eps: f32,
}

/// A tensor that is not the weight of a linear layer: frozen, or trained.
enum Vector {
    Frozen(Tensor),
    Trained(Parameter),
}

impl Vector {
    fn tensor(&self) -> Tensor {
        match self {
            Vector::Frozen(tensor) => tensor.clone(),
            Vector::Trained(parameter) => parameter.tensor(),
        }
    }
}

/// The output embedding.
enum Head {
    Frozen(Matrix),
    Trained(Parameter),
}

impl Llama {
    /// Loads the model in a folder.
    pub fn load(dir: &Path, options: LoadOptions) -> Result<Self> {
        let config = LlamaConfig::read(dir)?;
        let shape = config.shape();
        let heads = AttentionShape {
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
        };
        check_kernels(dir, &config, options.device)?;
        let checkpoint = Checkpoint::open(dir)?;
        let nf4 = options.weights.nf4.filter(|_| !nf4::is_stored(&checkpoint, &shape));
        let options = LoadOptions { weights: WeightOptions { dtype: options.dtype(), nf4 }, ..options };
        let mut loader = Loader { checkpoint: &checkpoint, options, used: Vec::new(), parameters: Vec::new() };
        let (vocab, width) = (config.vocab_size, config.hidden_size);
        let embed_tokens = loader.table("model.embed_tokens.weight", &[vocab, width])?;
        let mut linears = shape.linears.iter().cloned();
        let blocks = (0..config.num_hidden_layers).map(|i| {
            let mut linear = || loader.linear(linears.next().expect("seven linear layers a block"));
            let linears = [linear()?, linear()?, linear()?, linear()?, linear()?, linear()?, linear()?];
            let mut norm = |name: &str| loader.vector(&format!("model.layers.{i}.{name}.weight"), width);
            Ok(Arc::new(Block {
                input_layernorm: norm("input_layernorm")?,
                linears,
                post_attention_layernorm: norm("post_attention_layernorm")?,
                heads,
                eps: config.rms_norm_eps as f32,
            }))
        });
        let blocks = blocks.collect::<Result<_>>()?;
        let norm = loader.vector("model.norm.weight", width)?;
        let lm_head = match (&embed_tokens, config.tie_word_embeddings) {
            (Vector::Frozen(table), true) => Head::Frozen(frozen(table.clone())?),
            (Vector::Trained(table), true) => Head::Trained(table.clone()),
            (_, false) => match loader.table("lm_head.weight", &[vocab, width])? {
                Vector::Frozen(table) => Head::Frozen(frozen(table)?),
                Vector::Trained(table) => Head::Trained(table),
            },
        };
        let (used, parameters) = (loader.used, loader.parameters);
        // Tied models may carry a copy of the embedding; old files carry what rotary embedding is computed from.
        let tied = config.tie_word_embeddings;
        checkpoint.check_all_used(&used, |name| {
            (tied && name == "lm_head.weight") || name.ends_with(".rotary_emb.inv_freq")
        })?;
        let rope = RwLock::new(Arc::new(RopeTable::new(&config.inv_freq(), 0)));
        Ok(Llama { config, shape, embed_tokens, blocks, norm, lm_head, rope, parameters, device: options.device })
    }

    /// A table that holds at least that many positions.
    fn rope(&self, positions: usize) -> dora_tensor::Result<Arc<RopeTable>> {
        if positions > self.config.max_position_embeddings {
            let limit = self.config.max_position_embeddings;
            let found = format!("a document of {positions} tokens, expected at most the model's context of {limit}");
            return Err(dora_tensor::Error::argument("llama", found));
        }
        let table = self.rope.read().expect("no pass panicked").clone();
        if table.positions() >= positions {
            return Ok(table);
        }
        let room = positions.next_power_of_two().min(self.config.max_position_embeddings);
        let table = Arc::new(RopeTable::new(&self.config.inv_freq(), room).to_device(self.device)?);
        *self.rope.write().expect("no pass panicked") = table.clone();
        Ok(table)
    }

    fn embed(&self, input_ids: &[u32]) -> dora_tensor::Result<Tensor> {
        embedding(input_ids, &self.embed_tokens.tensor())
    }

    fn finish(&self, x: &Tensor) -> dora_tensor::Result<Tensor> {
        rms_norm(x, &self.norm.tensor(), self.config.rms_norm_eps as f32)
    }
}

impl Model for Llama {
    fn shape(&self) -> &ModelShape {
        &self.shape
    }

    fn context(&self) -> usize {
        self.config.max_position_embeddings
    }

    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn eos_token_ids(&self) -> &[u32] {
        &self.config.eos_token_ids
    }

    fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let blocks = self.blocks.iter_mut();
        let own = |block| Arc::get_mut(block).expect("blocks are shared during a pass only");
        blocks.map(own).flat_map(|block: &mut Block| &mut block.linears).collect()
    }

    fn parameters(&self) -> Vec<Parameter> {
        self.parameters.clone()
    }

    fn hidden(&self, input_ids: &[u32], pass: &Pass) -> dora_tensor::Result<Tensor> {
        if pass.documents.tokens() != input_ids.len() {
            let found = format!("{} tokens for documents of {}", input_ids.len(), pass.documents.tokens());
            return Err(dora_tensor::Error::argument("llama", found));
        }
        let longest = pass.documents.ranges().iter().map(|r| r.len()).max().unwrap_or(0);
        let table = self.rope(longest)?;
        let mut x = self.embed(input_ids)?;
        for (i, block) in self.blocks.iter().enumerate() {
            let (inner, pass_, table) = (block.clone(), pass.clone(), table.clone());
            let last = i + 1 == self.blocks.len();
            let run = move |x: &Tensor| {
                let wanted = pass_.wanted.as_ref().filter(|_| last);
                let attend = |q: Tensor, k: Tensor, v: Tensor| {
                    attention(&q, &k, &v, &pass_.documents, inner.heads, inner.heads.scale())
                };
                inner.forward(x, &pass_, &table, attend, wanted)
            };
            x = if pass.recompute_blocks { checkpoint(&x, true, run)? } else { run(&x)? };
        }
        self.finish(&x)
    }

    fn head(&self) -> Matrix {
        match &self.lm_head {
            Head::Frozen(matrix) => matrix.clone(),
            Head::Trained(parameter) => Matrix::Trained(parameter.tensor()),
        }
    }

    fn cache(&self, capacity: usize) -> dora_tensor::Result<Cache> {
        let width = self.config.num_key_value_heads * self.config.head_dim;
        Cache::new(self.device, self.blocks.len(), capacity, width)
    }

    fn extend(&self, input_ids: &[u32], cache: &mut Cache) -> dora_tensor::Result<Tensor> {
        let start = cache.len();
        let table = self.rope(start + input_ids.len())?;
        let pass = Pass::over(Documents::continued(start, input_ids.len()));
        no_grad(|| {
            let mut x = self.embed(input_ids)?;
            for (layer, block) in self.blocks.iter().enumerate() {
                let attend = |q: Tensor, k: Tensor, v: Tensor| {
                    let (keys, values) = cache.put(layer, &k, &v)?;
                    attention_cached(&q, &keys, &values, &pass.documents, block.heads, block.heads.scale())
                };
                x = block.forward(&x, &pass, &table, attend, None)?;
            }
            cache.advance(input_ids.len());
            self.finish(&x)
        })
    }
}

impl Block {
    /// x behind the block: all of it, or the rows `wanted`.
    fn forward(
        &self,
        x: &Tensor,
        pass: &Pass,
        table: &Arc<RopeTable>,
        attend: impl FnOnce(Tensor, Tensor, Tensor) -> dora_tensor::Result<Tensor>,
        wanted: Option<&Arc<RowIds>>,
    ) -> dora_tensor::Result<Tensor> {
        let [q, k, v, o, gate, up, down] = &self.linears;
        let normed = rms_norm(x, &self.input_layernorm.tensor(), self.eps)?;
        let turn = |x: Tensor| rope(&x, &pass.positions, table);
        let (q, k) = (turn(q.forward(&normed, pass)?)?, turn(k.forward(&normed, pass)?)?);
        let attended = attend(q, k, v.forward(&normed, pass)?)?;
        let (x, attended) = match wanted {
            Some(rows) => (&index_select(x, rows)?, index_select(&attended, rows)?),
            None => (x, attended),
        };
        let x = residual(x, o.forward(&attended, pass)?)?;
        let normed = rms_norm(&x, &self.post_attention_layernorm.tensor(), self.eps)?;
        let product = swiglu(&gate.forward(&normed, pass)?, &up.forward(&normed, pass)?)?;
        residual(&x, down.forward(&product, pass)?)
    }
}

/// Refuses sizes for which a device has no kernels.
fn check_kernels(dir: &Path, config: &LlamaConfig, device: Device) -> Result<()> {
    let refuse = |field: &str, found: usize, expected: String| {
        let (path, field) = (dir.join("config.json"), field.to_owned());
        Err(Error::Config { path, field, found: found.to_string(), expected: format!("{expected} on {device}") })
    };
    let (head_dim, width) = (config.head_dim, config.hidden_size);
    if let Some(dims) = AttentionShape::head_dims(device)
        && !dims.contains(&head_dim)
    {
        let dims: Vec<String> = dims.iter().map(usize::to_string).collect();
        return refuse("head_dim", head_dim, dims.join(" or "));
    }
    match widest_norm(device) {
        Some(most) if width > most => refuse("hidden_size", width, format!("at most {most}")),
        _ => Ok(()),
    }
}

fn frozen(table: Tensor) -> Result<Matrix> {
    Ok(Matrix::Frozen(Arc::new(DenseWeight::new(table)?)))
}

/// Takes tensors out of a checkpoint, as parameters or frozen, and remembers which.
struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    options: LoadOptions,
    used: Vec<String>,
    parameters: Vec<Parameter>,
}

impl Loader<'_> {
    /// A copy in `f32` on the device, and the mapped bytes given back. For what is trained, and for small tensors: to read one from the mapped
    /// file may bring a whole huge page of its neighbours into memory.
    fn copy(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.used.push(name.to_owned());
        let tensor = Tensor::from_vec(self.checkpoint.expect(name, shape)?.to_vec(), shape)?;
        self.checkpoint.release(name)?;
        Ok(tensor.to_device(self.options.device)?)
    }

    fn parameter(&mut self, name: &str, shape: &[usize]) -> Result<Parameter> {
        let role = if shape.len() == 1 { Role::Vector } else { Role::Matrix };
        let parameter = Parameter::new(name, role, self.copy(name, shape)?)?;
        self.parameters.push(parameter.clone());
        Ok(parameter)
    }

    /// An embedding, in the weights' precision.
    fn table(&mut self, name: &str, shape: &[usize]) -> Result<Vector> {
        match self.options.trained {
            true => Ok(Vector::Trained(self.parameter(name, shape)?)),
            false => {
                self.used.push(name.to_owned());
                let LoadOptions { weights, device, .. } = self.options;
                Ok(Vector::Frozen(self.checkpoint.expect_on(name, shape, weights.dtype, device)?))
            }
        }
    }

    /// A norm's weight or a bias, always `f32`.
    fn vector(&mut self, name: &str, len: usize) -> Result<Vector> {
        match self.options.trained {
            true => Ok(Vector::Trained(self.parameter(name, &[len])?)),
            false => Ok(Vector::Frozen(self.copy(name, &[len])?)),
        }
    }

    fn weight(&mut self, name: &str, shape: (usize, usize)) -> Result<Arc<dyn Weight>> {
        match nf4::is_quantized(self.checkpoint, name) {
            true => self.used.extend(nf4::names(self.checkpoint, name)),
            false => self.used.push(name.to_owned()),
        }
        nf4::weight(self.checkpoint, name, shape, self.options.weights, self.options.device)
    }

    fn linear(&mut self, shape: LinearShape) -> Result<Linear> {
        let (weight, bias) = (format!("{}.weight", shape.path), format!("{}.bias", shape.path));
        let (out, sizes) = (shape.out_features, [shape.out_features, shape.in_features]);
        let base = match self.options.trained {
            true => Base::Trained {
                weight: self.parameter(&weight, &sizes)?,
                bias: shape.bias.then(|| self.parameter(&bias, &[out])).transpose()?,
            },
            false => Base::Frozen {
                weight: self.weight(&weight, (out, shape.in_features))?,
                bias: shape.bias.then(|| self.copy(&bias, &[out])).transpose()?,
            },
        };
        Ok(Linear::new(shape, base))
    }
}
