//! Tests of loading (each form, each refusal with its message) and of plans (over many seeds).

mod plan;
mod questions;
mod refusals;
mod rows;

use super::*;
use std::fs;

const BOS: u32 = 0;
const EOS: u32 = 1;

/// Words by white space, `w0` is 10, `w1` is 11, … `w29`; a template puts BOS in front and `tail` behind.
fn words(tail: &str) -> Tokenizer {
    let vocab: String = (0..30).map(|i| format!(r#","w{i}":{}"#, 10 + i)).collect();
    let added = |id: u32, token: &str| {
        format!(
            r#"{{"id":{id},"content":"{token}","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,
                "special":true}}"#
        )
    };
    let text = format!(
        r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{},{}],"normalizer":null,
            "pre_tokenizer":{{"type":"WhitespaceSplit"}},"post_processor":{{"type":"TemplateProcessing",
                "single":[{{"SpecialToken":{{"id":"<s>","type_id":0}}}},{{"Sequence":{{"id":"A","type_id":0}}}}{tail}],
                "pair":[{{"Sequence":{{"id":"A","type_id":0}}}},{{"Sequence":{{"id":"B","type_id":1}}}}],
                "special_tokens":{{"<s>":{{"id":"<s>","ids":[0],"tokens":["<s>"]}},
                    "</s>":{{"id":"</s>","ids":[1],"tokens":["</s>"]}}}}}},
            "decoder":null,"model":{{"type":"WordLevel","vocab":{{"<s>":0,"</s>":1,"?":2{vocab}}},"unk_token":"?"}}}}"#,
        added(BOS, "<s>"),
        added(EOS, "</s>"),
    );
    Tokenizer::from_bytes(text.as_bytes()).unwrap()
}

/// A template that puts EOS behind every text.
const EOS_TAIL: &str = r#",{"SpecialToken":{"id":"</s>","type_id":0}}"#;

fn options() -> LoadOptions {
    LoadOptions { max_seq_len: 8, long_rows: LongRows::Refuse, vocab_size: 40, eos_id: Some(EOS) }
}

/// Loads files of these contents, called `0.jsonl`, `1.jsonl`, …; an error's message shows them without their folder.
fn load_with(
    contents: &[&[u8]],
    tokenizer: Option<&Tokenizer>,
    options: &LoadOptions,
) -> std::result::Result<Dataset, String> {
    let dir = tempfile::tempdir().unwrap();
    let files: Vec<PathBuf> = (0..contents.len()).map(|i| dir.path().join(format!("{i}.jsonl"))).collect();
    for (file, content) in files.iter().zip(contents) {
        fs::write(file, content).unwrap();
    }
    let folder = format!("{}/", dir.path().display());
    Dataset::load(&files, tokenizer, options).map_err(|e| e.to_string().replace(&folder, ""))
}

fn load(content: &str) -> std::result::Result<Dataset, String> {
    load_with(&[content.as_bytes()], Some(&words("")), &options())
}

fn row(input_ids: &[u32], labels: &[i32]) -> Row {
    Row { input_ids: input_ids.to_vec(), labels: labels.to_vec() }
}
