//! Records to rows. A record has exactly the keys of one form:
//!
//! * `{"prompt", "completion"}`: loss on the completion and the end-of-sequence token behind it. The two are tokenised
//!   apart and joined, so a space between them belongs to one of them.
//! * `{"instruction", "input", "output"}`, `input` optional: `output` completes Alpaca's prompt (the wording of
//!   stanford_alpaca and of LLM-Adapters, which the DoRA paper trains with, in the layout of alpaca-lora's template and
//!   without the indentation that LLM-Adapters' source code leaks into it). LLM-Adapters' fourth key `answer` is allowed
//!   and takes no part in training.
//! * `{"text"}`: loss on every token and on the end-of-sequence token behind them.
//! * `{"input_ids", "labels"}`: taken as they are, −100 = no loss; nothing is added.

use serde_json::{Map, Value};

use super::encoder::Encoder;
use super::{IGNORE, Row};

/// What was found in a record and what was expected.
pub(super) type Problem = String;

/// Row of a record, with ids and labels below `vocab_size`.
pub(super) fn row(record: &Map<String, Value>, encoder: Option<&Encoder>, vocab_size: usize) -> Result<Row, Problem> {
    let form = form(record)?;
    if form == Form::Tokens {
        return tokens(record, vocab_size);
    }
    let Some(encoder) = encoder else {
        return Err("found text but no tokenizer, expected keys `input_ids`, `labels`".into());
    };
    let (prompt, completion) = match form {
        Form::Completion => (string(record, "prompt")?.to_owned(), filled(record, "completion")?),
        Form::Instruction => {
            let input = optional(record, "input")?;
            optional(record, "answer")?;
            (alpaca(string(record, "instruction")?, input), filled(record, "output")?)
        }
        Form::Text | Form::Tokens => (String::new(), filled(record, "text")?),
    };
    let mut input_ids = encoder.prompt(&prompt).map_err(|e| e.to_string())?;
    // A text is a completion of nothing, whose head carries loss like the rest.
    let unlabelled = if form == Form::Text { 0 } else { input_ids.len() };
    input_ids.extend(encoder.completion(completion).map_err(|e| e.to_string())?);
    let mut labels = vec![IGNORE; unlabelled];
    for (at, &id) in input_ids.iter().enumerate() {
        within(id.into(), at, vocab_size)?;
        if at >= unlabelled {
            labels.push(id as i32);
        }
    }
    Ok(Row { input_ids, labels })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Completion,
    Instruction,
    Text,
    Tokens,
}

/// Each form with the keys that it must have and those that it may have.
const FORMS: [(Form, &[&str], &[&str]); 4] = [
    (Form::Completion, &["prompt", "completion"], &[]),
    (Form::Instruction, &["instruction", "output"], &["input", "answer"]),
    (Form::Text, &["text"], &[]),
    (Form::Tokens, &["input_ids", "labels"], &[]),
];

fn form(record: &Map<String, Value>) -> Result<Form, Problem> {
    if record.contains_key("messages") {
        return Err("found key `messages`, which is not supported yet, expected `prompt`, `completion`".into());
    }
    let fits = |required: &[&str], allowed: &[&str]| {
        let known = |key: &str| required.contains(&key) || allowed.contains(&key);
        required.iter().all(|key| record.contains_key(*key)) && record.keys().all(|key| known(key))
    };
    match FORMS.iter().find(|(_, required, allowed)| fits(required, allowed)) {
        Some((form, ..)) => Ok(*form),
        None => {
            let keys: Vec<_> = record.keys().map(|key| format!("`{key}`")).collect();
            let found = if keys.is_empty() { "no keys".into() } else { format!("keys {}", keys.join(", ")) };
            Err(format!(
                "found {found}, expected exactly `prompt`, `completion`, or `instruction`, `output` (and `input`, `answer` \
                 where they exist), or `text`, or `input_ids`, `labels`"
            ))
        }
    }
}

/// Alpaca's prompt; an empty input is none.
pub(super) fn alpaca(instruction: &str, input: &str) -> String {
    let (paired, section) = match input {
        "" => ("", String::new()),
        _ => (", paired with an input that provides further context", format!("### Input:\n{input}\n\n")),
    };
    format!(
        "Below is an instruction that describes a task{paired}. Write a response that appropriately completes the \
         request.\n\n### Instruction:\n{instruction}\n\n{section}### Response:\n"
    )
}

/// A pre-tokenised row.
fn tokens(record: &Map<String, Value>, vocab_size: usize) -> Result<Row, Problem> {
    let (ids, given) = (array(record, "input_ids")?, array(record, "labels")?);
    if ids.len() != given.len() {
        return Err(format!("found {} `input_ids` and {} `labels`, expected as many", ids.len(), given.len()));
    }
    let (mut input_ids, mut labels) = (Vec::with_capacity(ids.len()), Vec::with_capacity(ids.len()));
    for (at, (id, label)) in ids.iter().zip(given).enumerate() {
        let Some(id) = id.as_u64() else {
            return Err(format!("found {id} in `input_ids` at position {at}, expected a token id"));
        };
        within(id, at, vocab_size)?;
        input_ids.push(id as u32);
        labels.push(match label.as_i64() {
            Some(label) if label == i64::from(IGNORE) || (0..vocab_size as i64).contains(&label) => label as i32,
            _ => {
                return Err(format!(
                    "found {label} in `labels` at position {at}, expected {IGNORE} (no loss) or a token id below \
                     {vocab_size}"
                ));
            }
        });
    }
    Ok(Row { input_ids, labels })
}

pub(super) fn within(id: u64, at: usize, vocab_size: usize) -> Result<(), Problem> {
    match id < vocab_size as u64 {
        true => Ok(()),
        false => Err(format!("token id {id} at position {at} is beyond the embedding's {vocab_size} rows")),
    }
}

pub(super) fn string<'a>(record: &'a Map<String, Value>, key: &str) -> Result<&'a str, Problem> {
    let value = record.get(key).unwrap_or(&Value::Null);
    value.as_str().ok_or_else(|| format!("found {} as `{key}`, expected a string", kind(value)))
}

/// A string that may be absent: empty then.
pub(super) fn optional<'a>(record: &'a Map<String, Value>, key: &str) -> Result<&'a str, Problem> {
    if record.contains_key(key) { string(record, key) } else { Ok("") }
}

pub(super) fn filled<'a>(record: &'a Map<String, Value>, key: &str) -> Result<&'a str, Problem> {
    match string(record, key)? {
        "" => Err(format!("found an empty `{key}`, expected text to learn")),
        text => Ok(text),
    }
}

fn array<'a>(record: &'a Map<String, Value>, key: &str) -> Result<&'a [Value], Problem> {
    let value = record.get(key).unwrap_or(&Value::Null);
    value.as_array().map(Vec::as_slice).ok_or_else(|| format!("found {} as `{key}`, expected an array", kind(value)))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpaca_to_the_letter() {
        assert_eq!(
            alpaca("Add.", "1, 2"),
            "Below is an instruction that describes a task, paired with an input that provides further context. Write a \
             response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n\
             ### Response:\n"
        );
        assert_eq!(
            alpaca("Sing.", ""),
            "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n\
             ### Instruction:\nSing.\n\n### Response:\n"
        );
    }
}
