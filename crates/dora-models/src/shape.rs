//! What a model consists of, known from `config.json` alone: every linear layer with its path and sizes, and the number of
//! parameters outside of them. Counting, target matching and memory plans need nothing else.

/// One linear layer of a model: `y (n, out) = x (n, in) · Wᵀ (+ bias)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearShape {
    /// Module path as Hugging Face names it, for example `model.layers.0.self_attn.q_proj`.
    pub path: String,
    /// Number of input features.
    pub in_features: usize,
    /// Number of output features.
    pub out_features: usize,
    /// Whether the layer has a bias.
    pub bias: bool,
    /// Whether this is the output embedding (`lm_head`), which `all-linear` leaves out.
    pub output_embedding: bool,
}

/// A model's linear layers, in the order of execution, and the count of all its parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelShape {
    /// Linear layers; the output embedding comes last (present even when tied).
    pub linears: Vec<LinearShape>,
    /// Paths of the modules that are no linear layer (`model.embed_tokens`, `model.norm`, …), to tell a user who targets them.
    pub other_modules: Vec<String>,
    /// All parameters, each counted once (a tied output embedding adds nothing).
    pub parameters: usize,
    /// Whether the output embedding is the input embedding.
    pub tied: bool,
    /// What training keeps in memory beside the weights.
    pub activations: Activations,
}

/// Activations of a training pass, in `f32` elements a token. An architecture counts its own; what an adapter keeps beside them
/// is the adapter's affair.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Activations {
    /// Number of blocks.
    pub blocks: usize,
    /// Width of the stream between blocks: all that is kept of a block that is computed again.
    pub width: usize,
    /// Heads times their size: what an attention score costs in products, forward and backward, and what a token's result takes.
    pub attention_width: usize,
    /// The layer that reads attention's result, and keeps it where documents are long: how its path ends.
    pub attention_reader: &'static str,
    /// What a block keeps for its backward pass, by name.
    pub kept: Vec<(&'static str, usize)>,
    /// Most that a block holds at a time in a pass that keeps nothing.
    pub forward: usize,
    /// Most that a block's backward pass holds at a time beside what was kept.
    pub backward: usize,
}

impl Activations {
    /// Elements a token that a block keeps in any case.
    pub fn kept_per_block(&self) -> usize {
        self.kept.iter().map(|(_, count)| count).sum()
    }
}

/// A pass over documents that lie side by side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PassSize {
    /// Tokens of all documents.
    pub tokens: usize,
    /// Tokens of the longest.
    pub longest: usize,
    /// Tokens that carry loss.
    pub labelled: usize,
}

impl PassSize {
    /// The larger of two in every respect.
    pub fn max(self, other: Self) -> Self {
        PassSize {
            tokens: self.tokens.max(other.tokens),
            longest: self.longest.max(other.longest),
            labelled: self.labelled.max(other.labelled),
        }
    }
}
