//! Text to token ids and back, by a Hugging Face `tokenizer.json`. Padding and truncation that the file may ask for are
//! switched off: an encoding is always the whole text and nothing but the text (and its special tokens).

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::json;

/// A tokenizer, and the end-of-sequence token where it is known.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    vocab_size: usize,
    eos_id: Option<u32>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model folder, and the end-of-sequence token from `tokenizer_config.json` if it is there.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        let tokenizer = Self::parse(&bytes, path)?;
        match eos_token(&dir.join("tokenizer_config.json"))? {
            Some(token) => tokenizer.with_eos(&token),
            None => Ok(tokenizer),
        }
    }

    /// Reads the bytes of a `tokenizer.json`; the end-of-sequence token is unknown until [`with_eos`](Self::with_eos).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Self::parse(bytes, PathBuf::from("tokenizer.json"))
    }

    /// Names the end-of-sequence token, which the vocabulary must hold.
    pub fn with_eos(mut self, token: &str) -> Result<Self> {
        let id = self.token_id(token);
        self.eos_id = Some(id.ok_or_else(|| {
            self.error(format!("found no token {token:?}, expected the end-of-sequence token in the vocabulary"))
        })?);
        Ok(self)
    }

    /// Token ids of the whole text; `add_special_tokens` adds those of the file's post-processor (a BOS, for example).
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        match self.inner.encode_fast(text, add_special_tokens) {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(e) => Err(self.error(format!("cannot encode a text of {} bytes: {e}", text.len()))),
        }
    }

    /// Token ids of a text to be continued: the template's special tokens in front, none behind.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        let (mut ids, _) = self.frame()?;
        ids.extend(self.encode(text, false)?);
        Ok(ids)
    }

    /// Special tokens that the tokenizer's template puts before and behind a text. An empty text shows them all; the first
    /// token of the vocabulary that encodes to something else shows which of them stand before it.
    pub fn frame(&self) -> Result<(Vec<u32>, Vec<u32>)> {
        let special = self.encode("", true)?;
        if special.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        for id in 0..self.vocab_size() as u32 {
            // Ids in gaps of the vocabulary do not decode; some tokens' texts do not encode on their own.
            let Ok(text) = self.decode(&[id], true) else { continue };
            let Ok(plain) = self.encode(&text, false) else { continue };
            if plain.is_empty() || plain.iter().any(|id| special.contains(id)) {
                continue;
            }
            let framed = self.encode(&text, true)?;
            let head = framed.iter().take_while(|id| special.contains(id)).count();
            let tail = framed.len().saturating_sub(head + plain.len());
            return Ok((framed[..head].to_vec(), framed[framed.len() - tail..].to_vec()));
        }
        Ok((special, Vec::new()))
    }

    /// Text of the tokens; an id outside the vocabulary is an error, never skipped.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        if let Some(id) = ids.iter().find(|&&id| self.inner.id_to_token(id).is_none()) {
            return Err(self.error(format!("found token id {id}, expected one of the {} known", self.vocab_size)));
        }
        self.inner.decode(ids, skip_special_tokens).map_err(|e| self.error(format!("cannot decode: {e}")))
    }

    /// One more than the largest token id: the rows that an embedding must have.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id of exactly this token, special tokens included.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The end-of-sequence token, where it is known.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos_id
    }

    fn parse(bytes: &[u8], path: PathBuf) -> Result<Self> {
        let mut inner = match tokenizers::Tokenizer::from_bytes(bytes) {
            Ok(inner) => inner,
            Err(e) => return Err(Error::Tokenizer { path, problem: format!("not a tokenizer this build reads: {e}") }),
        };
        inner.with_padding(None);
        inner.with_truncation(None).expect("no truncation is always valid");
        let vocab_size = inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1);
        Ok(Self { inner, path, vocab_size, eos_id: None })
    }

    fn error(&self, problem: String) -> Error {
        Error::Tokenizer { path: self.path.clone(), problem }
    }
}

/// `eos_token` of a `tokenizer_config.json`: a string, or an object with the string as `content`.
fn eos_token(path: &Path) -> Result<Option<String>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read", path)(e)),
    };
    let config = json::object(&bytes, path)?;
    let token = match config.get("eos_token") {
        None | Some(Value::Null) => return Ok(None),
        Some(object @ Value::Object(_)) => &object["content"],
        Some(token) => token,
    };
    match token {
        Value::String(token) => Ok(Some(token.clone())),
        other => Err(Error::Tokenizer {
            path: path.to_owned(),
            problem: format!("eos_token is {other}, expected a string or an object with a string `content`"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words by white space; BOS in front; asks for truncation to 2 tokens and padding to 8.
    const WORDS: &str = r#"{"version":"1.0",
        "truncation":{"direction":"Right","max_length":2,"strategy":"LongestFirst","stride":0},
        "padding":{"strategy":{"Fixed":8},"direction":"Right","pad_to_multiple_of":null,"pad_id":1,"pad_type_id":0,
            "pad_token":"</s>"},
        "added_tokens":[{"id":0,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,
            "special":true},{"id":1,"content":"</s>","single_word":false,"lstrip":false,"rstrip":false,
            "normalized":false,"special":true}],
        "normalizer":null,"pre_tokenizer":{"type":"WhitespaceSplit"},
        "post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},
            {"Sequence":{"id":"A","type_id":0}}],"pair":[{"Sequence":{"id":"A","type_id":0}},
            {"Sequence":{"id":"B","type_id":1}}],"special_tokens":{"<s>":{"id":"<s>","ids":[0],"tokens":["<s>"]}}},
        "decoder":null,
        "model":{"type":"WordLevel","vocab":{"<s>":0,"</s>":1,"one":2,"two":3,"three":4,"?":9},"unk_token":"?"}}"#;

    fn words() -> Tokenizer {
        Tokenizer::from_bytes(WORDS.as_bytes()).unwrap()
    }

    fn folder(config: Option<&str>) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tokenizer.json"), WORDS).unwrap();
        if let Some(config) = config {
            fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
        }
        dir
    }

    #[test]
    fn neither_truncates_nor_pads() {
        assert_eq!(words().encode("one two three two one", false).unwrap(), [2, 3, 4, 3, 2]);
        assert_eq!(words().encode("one", true).unwrap(), [0, 2]);
        assert_eq!(words().encode("", false).unwrap(), [0u32; 0]);
    }

    #[test]
    fn decodes_and_refuses_unknown_ids() {
        assert_eq!(words().decode(&[0, 3, 1], true).unwrap(), "two");
        assert_eq!(words().decode(&[0, 3, 1], false).unwrap(), "<s> two </s>");
        let message = words().decode(&[3, 5], true).unwrap_err().to_string();
        assert!(message.contains("token id 5"), "{message}");
    }

    #[test]
    fn vocabulary_with_a_gap_counts_to_its_largest_id() {
        assert_eq!(words().vocab_size(), 10);
        assert_eq!((words().token_id("three"), words().token_id("four")), (Some(4), None));
    }

    #[test]
    fn end_of_sequence_is_a_string_an_object_or_absent() {
        let eos = |config| Tokenizer::open(folder(config).path()).map(|t| t.eos_id());
        assert_eq!(eos(None).unwrap(), None);
        assert_eq!(eos(Some("{}")).unwrap(), None);
        assert_eq!(eos(Some(r#"{"eos_token":null}"#)).unwrap(), None);
        assert_eq!(eos(Some(r#"{"eos_token":"</s>"}"#)).unwrap(), Some(1));
        assert_eq!(eos(Some(r#"{"eos_token":{"content":"</s>","special":true}}"#)).unwrap(), Some(1));
        let message = |config| eos(Some(config)).unwrap_err().to_string();
        assert!(message(r#"{"eos_token":"<end>"}"#).contains("\"<end>\""));
        assert!(message(r#"{"eos_token":7}"#).contains("eos_token is 7"));
        assert!(message("{\n \"eos_token\" 7}").contains("tokenizer_config.json:2:14: expected `:`"));
    }

    #[test]
    fn names_the_file_that_is_missing_or_broken() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Tokenizer::open(dir.path()).unwrap_err().to_string().contains("tokenizer.json"));
        let message = Tokenizer::from_bytes(b"{").unwrap_err().to_string();
        assert!(message.starts_with("tokenizer.json: not a tokenizer"), "{message}");
    }
}
