//! What a training pass of Llama keeps of a block's activations: the one table that memory plans read. It mirrors
//! `llama.rs` and the operations that it calls, and has to change with them; `cargo xtask memory` compares it with real runs.
//!
//! C is the width of the stream, Q = heads · head_dim, K = kv_heads · head_dim, F the width of the MLP.

use super::LlamaConfig;
use crate::shape::Activations;

impl LlamaConfig {
    /// Outputs of norms, rotary embedding, SwiGLU and attention of short documents are computed again from what is in the table; those of o and
    /// down are differences of the stream.
    pub(super) fn activations(&self) -> Activations {
        let (c, f, heads) = (self.hidden_size, self.intermediate_size, self.num_attention_heads);
        let (q, k) = (heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        Activations {
            blocks: self.num_hidden_layers,
            width: c,
            attention_width: q,
            attention_reader: ".o_proj",
            kept: vec![
                ("stream before attention", c),
                ("q before rotation", q),
                ("k before rotation", k),
                ("v", k),
                ("attention's log-sum-exp", heads),
                ("stream before the MLP", c),
                ("gate", f),
                ("up", f),
                ("reciprocals of the norms", 2),
            ],
            // The stream twice, a norm's output, and gate, up and their product; or q and k, turned, with v and the result.
            forward: (3 * c + 3 * f).max(2 * c + 2 * (q + k)),
            // The gradients of the stream, of the product and of gate; or, when gate and up are gone, those of the stream, of
            // attention's result and of q, k and v (these for each query head), beside the result and q and k, turned, made again.
            backward: 2 * c + (2 * f).max((6 * q + k).saturating_sub(2 * f)),
        }
    }
}
