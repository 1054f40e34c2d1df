//! The regular expressions of an adapter's settings, matched against module paths such as
//! `model.layers.0.self_attn.q_proj`. PEFT compiles them with Python's `re`; here the `regex` crate's syntax holds. A
//! pattern that needs Python (lookaround, back references) is an error. Where both accept a pattern they agree, save for
//! possessive quantifiers (`a++`) and `&&`, `--`, `~~` inside a character class, which Python reads otherwise.

use crate::error::{Error, Result};
use regex::Regex;
use std::sync::LazyLock;

/// A pattern that a whole module path must match (`target_modules`, `exclude_modules` given as a string).
#[derive(Debug, Clone)]
pub struct PathPattern(Source);

/// Values that differ from the default for some layers (`rank_pattern`, `alpha_pattern`). A key matches the end of a path,
/// from its start or from behind a dot: `(.*\.)?(key)$`. The first key that matches wins.
#[derive(Debug, Clone)]
pub struct Overrides<T>(Vec<(Source, T)>);

/// The name of the list that holds a model's blocks (`layers_pattern`): the layer index is the number behind its first
/// occurrence, `(^|.*?\.)pattern\.(\d+)\.`.
#[derive(Debug, Clone)]
pub struct LayerPattern(Source);

impl PathPattern {
    /// Compiles `source`, the value of `setting`.
    pub fn new(setting: &'static str, source: &str) -> Result<Self> {
        Source::compile(setting, source, &format!(r"\A(?:{source})\z")).map(Self)
    }

    /// The pattern as it was given.
    pub fn source(&self) -> &str {
        &self.0.text
    }

    /// Whether the whole path matches.
    pub fn is_match(&self, path: &str) -> bool {
        self.0.regex.is_match(path)
    }
}

impl<T: Copy> Overrides<T> {
    /// Compiles the keys of `setting`, whose order matters.
    pub fn new<'a>(setting: &'static str, entries: impl IntoIterator<Item = (&'a str, T)>) -> Result<Self> {
        let compile = |(key, value)| {
            Source::compile(setting, key, &format!(r"\A(?:.*\.)?(?:{key})\z")).map(|source| (source, value))
        };
        entries.into_iter().map(compile).collect::<Result<_>>().map(Self)
    }

    /// The value for a path, if any key matches it.
    pub fn get(&self, path: &str) -> Option<T> {
        self.deciding(path).map(|index| self.0[index].1)
    }

    /// The position of the first key that matches a path.
    pub fn deciding(&self, path: &str) -> Option<usize> {
        self.0.iter().position(|(key, _)| key.regex.is_match(path))
    }

    /// Keys as they were given, with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, T)> {
        self.0.iter().map(|(key, value)| (key.text.as_str(), *value))
    }
}

impl<T> Default for Overrides<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl LayerPattern {
    /// Compiles `source`, an entry of `layers_pattern`.
    pub fn new(source: &str) -> Result<Self> {
        // No group around the pattern: PEFT has none, so an alternation in it extends over the number.
        let whole = format!(r"\A(?:(?:|.*?\.){source}\.(?P<idx>\d+)\.)");
        Source::compile("layers_pattern", source, &whole).map(Self)
    }

    /// The pattern as it was given.
    pub fn source(&self) -> &str {
        &self.0.text
    }
}

/// The index of the block that holds a module: by the first of `patterns` that matches or, without any, the first number
/// that has at least two components in front of it.
pub fn layer_index(patterns: &[LayerPattern], path: &str) -> Option<usize> {
    static ANY: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\A.*?\.[^.]*\.(?P<idx>\d+)\.").expect("a constant pattern"));
    let captures = match patterns {
        [] => ANY.captures(path),
        _ => patterns.iter().find_map(|pattern| pattern.0.regex.captures(path)),
    };
    captures?.name("idx")?.as_str().parse().ok()
}

#[derive(Debug, Clone)]
struct Source {
    text: String,
    regex: Regex,
}

impl Source {
    /// Compiles `whole`, the pattern `text` in its surroundings, after making sure that `text` stands by itself.
    fn compile(setting: &'static str, text: &str, whole: &str) -> Result<Self> {
        let compiled = Regex::new(text).and_then(|_| Regex::new(whole));
        let regex = compiled.map_err(|error| Error::Pattern {
            setting,
            pattern: text.to_string(),
            reason: last_line(&error.to_string()),
        })?;
        Ok(Self { text: text.to_string(), regex })
    }
}

/// The parser draws the pattern with a caret under it; its last line alone says what is wrong.
fn last_line(message: &str) -> String {
    let line = message.trim_end().lines().last().unwrap_or_default();
    line.trim_start_matches("error: ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_pattern_matches_the_whole_path() {
        let pattern = PathPattern::new("target_modules", r"a\.q|b").unwrap();
        assert!(pattern.is_match("a.q") && pattern.is_match("b"));
        assert!(!pattern.is_match("a.q.x") && !pattern.is_match("x.b") && !pattern.is_match("bb"));
    }

    #[test]
    fn a_key_matches_behind_a_dot_and_the_first_wins() {
        let ranks =
            Overrides::new("rank_pattern", [("q_proj|k_proj", 3), (r"layers\.0\..*", 5), ("q_proj", 7)]).unwrap();
        assert_eq!(ranks.get("model.layers.0.q_proj"), Some(3));
        assert_eq!(ranks.get("q_proj"), Some(3));
        assert_eq!(ranks.get("model.layers.0.v_proj"), Some(5));
        assert_eq!(ranks.get("model.layers.1.xq_proj"), None);
        assert_eq!(ranks.get("model.layers.10.v_proj"), None);
    }

    #[test]
    fn a_layer_index_is_the_first_number() {
        assert_eq!(layer_index(&[], "model.layers.12.mlp.experts.3.up_proj"), Some(12));
        assert_eq!(layer_index(&[], "layers.12.up_proj"), None);
        let layers = [LayerPattern::new("h").unwrap(), LayerPattern::new("layers").unwrap()];
        assert_eq!(layer_index(&layers, "layers.12.up_proj"), Some(12));
        assert_eq!(layer_index(&layers, "model.xlayers.12.up_proj"), None);
        assert_eq!(layer_index(&layers, "model.layers.99999999999999999999999.up_proj"), None);
    }

    #[test]
    fn a_pattern_that_needs_python_is_named() {
        for bad in ["(?!x)q_proj", "(", "a)|(b", r"(a)\1"] {
            let error = PathPattern::new("target_modules", bad).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`target_modules` holds the pattern {bad:?}, which")), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
