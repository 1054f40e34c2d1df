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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelShape {
    /// Linear layers; the output embedding comes last (present even when tied).
    pub linears: Vec<LinearShape>,
    /// Paths of the modules that are no linear layer (`model.embed_tokens`, `model.norm`, …), to tell a user who targets them.
    pub other_modules: Vec<String>,
    /// All parameters, each counted once (a tied output embedding adds nothing).
    pub parameters: usize,
}
