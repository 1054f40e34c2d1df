//! A byte-level BPE tokenizer over the demo text, in Hugging Face's `tokenizer.json` format.
//!
//! Digits stand alone, other text splits as in GPT-2. Token 0 is `<|end|>`, then the 256 bytes, then merges.

use anyhow::{Result, anyhow};
use serde_json::{Value, json};
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{AddedToken, Tokenizer, TokenizerBuilder};

/// Ends an answer.
pub const END: &str = "<|end|>";
/// The id of `END`.
pub const END_ID: u32 = 0;
/// Entries in the vocabulary.
pub const VOCABULARY: usize = 1536;

/// Learns the merges from `texts`. The same texts give the same tokenizer.
pub fn train<'a>(texts: impl Iterator<Item = &'a str> + Send) -> Result<Tokenizer> {
    let pre_tokenizers: Vec<PreTokenizerWrapper> =
        vec![Digits::new(true).into(), ByteLevel::default().add_prefix_space(false).into()];
    let mut tokenizer = TokenizerBuilder::<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, _>::new()
        .with_model(BPE::default())
        .with_pre_tokenizer(Some(Sequence::new(pre_tokenizers).into()))
        .with_decoder(Some(ByteLevelDecoder::default()))
        .build()
        .map_err(|e| anyhow!("tokenizer: {e}"))?;
    let mut trainer = BpeTrainer::builder()
        .vocab_size(VOCABULARY)
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(vec![AddedToken::from(END, true)])
        .build();
    tokenizer.train(&mut trainer, texts).map_err(|e| anyhow!("training the tokenizer: {e}"))?;
    let json = tokenizer.to_string(true).map_err(|e| anyhow!("tokenizer: {e}"))?;
    json.parse().map_err(|e| anyhow!("tokenizer: {e}"))
}

/// The content of `tokenizer_config.json`.
pub fn config(max_length: usize) -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": false,
    })
}
