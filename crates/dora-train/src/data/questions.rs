//! Multiple-choice questions in LLM-Adapters' form, {"instruction", "input", "output", "answer"} (`input` may be absent),
//! which the DoRA paper trains and evaluates on. The last line of the instruction names the options,
//! `Answer format: answer1/answer2/answer3`; `output` is a sentence that ends in `answer`, and with each option in the
//! answer's place it is what a model might say. Prompts are those of training.

use std::path::PathBuf;

use dora_models::tokenizer::Tokenizer;
use serde_json::{Map, Value};

use super::encoder::Encoder;
use super::forms::{Problem, alpaca, filled, optional, string, within};
use super::{LoadOptions, LongRows, records, short_hash};
use crate::error::Error;

/// The words that answer, a family to each kind of question. No word is the beginning of another of its family.
pub const FAMILIES: [&[&str]; 5] = [
    &["true", "false"],
    &["solution1", "solution2"],
    &["answer1", "answer2", "answer3", "answer4", "answer5"],
    &["ending1", "ending2", "ending3", "ending4"],
    &["option1", "option2"],
];

/// What stands before the options in an instruction.
const FORMAT: &str = "Answer format:";

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Token ids of the prompt, at least one.
    pub prompt: Vec<u32>,
    /// What the question offers, at least two.
    pub options: Vec<Choice>,
    /// Position of the right one.
    pub gold: usize,
    /// All words of the options' family: what an answer in words is searched for.
    pub family: &'static [&'static str],
    /// Names the question whatever the tokenizer: the first 16 hexadecimal digits of the SHA-256 of its four fields.
    pub hash: String,
}

/// An option of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Its word.
    pub word: &'static str,
    /// Token ids of the sentence that gives it as the answer. None of a question's is the beginning of another.
    pub completion: Vec<u32>,
}

/// Questions in the order of their files.
#[derive(Debug, Clone)]
pub struct Questions {
    /// Each with its position among the records read; prompt and longest completion fit `max_seq_len`.
    pub questions: Vec<(usize, Question)>,
    /// Records read.
    pub read: usize,
    /// Questions left out for their length.
    pub dropped_long: usize,
    /// SHA-256 of the files' bytes, one after another, in hexadecimal.
    pub sha256: String,
}

impl Questions {
    /// Reads the files in order. A question too long can be refused or left out, but not cut.
    pub fn load(files: &[PathBuf], tokenizer: &Tokenizer, options: &LoadOptions) -> crate::Result<Self> {
        let encoder = Encoder::new(tokenizer, options.eos_id)?;
        let (mut questions, mut read) = (Vec::new(), 0);
        let sha256 = records::each_of(files, |path, line, record| {
            let error = |problem| Error::Record { path: path.to_owned(), line, problem };
            let question = question(&record, &encoder, options.vocab_size).map_err(error)?;
            if fits(&question, options).map_err(error)? {
                questions.push((read, question));
            }
            read += 1;
            Ok(())
        })?;
        if questions.is_empty() {
            let problem =
                format!("all {read} questions are longer than --max-seq-len, expected at least one that fits");
            return Err(Error::Data { paths: files.to_vec(), problem });
        }
        let dropped_long = read - questions.len();
        Ok(Questions { questions, read, dropped_long, sha256 })
    }
}

/// The word of the family that a text holds first: the DoRA paper's rule.
pub fn extract(text: &str, family: &'static [&'static str]) -> Option<&'static str> {
    let places = family.iter().filter_map(|word| text.find(word).map(|at| (at, *word)));
    places.min().map(|(_, word)| word)
}

fn question(record: &Map<String, Value>, encoder: &Encoder, vocab_size: usize) -> Result<Question, Problem> {
    const KEYS: [&str; 4] = ["instruction", "input", "output", "answer"];
    if let Some(key) = record.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(format!("found key `{key}`, expected `instruction`, `input`, `output` and `answer` only"));
    }
    let (instruction, input) = (filled(record, "instruction")?, optional(record, "input")?);
    let (output, answer) = (filled(record, "output")?, string(record, "answer")?);
    let (words, family) = options(instruction)?;
    let gold = words.iter().position(|word| *word == answer);
    let gold = gold.ok_or_else(|| format!("found answer {answer:?}, expected one of {}", words.join(", ")))?;
    let Some(sentence) = output.strip_suffix(answer) else {
        return Err(format!("found output {output:?}, expected a sentence that ends in its answer {answer:?}"));
    };
    let prompt = encoder.prompt(&alpaca(instruction, input)).map_err(|e| e.to_string())?;
    let choice = |word: &'static str| {
        let completion = encoder.text(&format!("{sentence}{word}")).map_err(|e| e.to_string())?;
        Ok(Choice { word, completion })
    };
    let options = words.into_iter().map(choice).collect::<Result<Vec<_>, Problem>>()?;
    for ids in options.iter().map(|o| &o.completion).chain([&prompt]) {
        ids.iter().enumerate().try_for_each(|(at, &id)| within(id.into(), at, vocab_size))?;
    }
    for (i, a) in options.iter().enumerate() {
        let alike = |b: &&Choice| a.completion.starts_with(&b.completion) || b.completion.starts_with(&a.completion);
        if let Some(b) = options[..i].iter().find(alike) {
            let (a, b) = (a.word, b.word);
            return Err(format!("the tokenizer does not tell {b} from {a}, expected different tokens for each answer"));
        }
    }
    if prompt.is_empty() {
        return Err("the prompt has no token, expected at least one".into());
    }
    let hash = short_hash([instruction, input, output, answer].map(|field| format!("{field}\0")));
    Ok(Question { prompt, options, gold, family, hash })
}

/// The options that an instruction names, and their family.
fn options(instruction: &str) -> Result<(Vec<&'static str>, &'static [&'static str]), Problem> {
    let expected = "expected it to end in a line like `Answer format: true/false`";
    let Some((_, named)) = instruction.rsplit_once(FORMAT) else {
        return Err(format!("found no `{FORMAT}` in the instruction, {expected}"));
    };
    let named = named.trim();
    let words: Vec<&str> = named.split('/').collect();
    let known = |family: &[&'static str]| -> Option<Vec<&'static str>> {
        words.iter().map(|word| family.iter().find(|known| *known == word).copied()).collect()
    };
    let found = FAMILIES.into_iter().find_map(|family| Some((known(family)?, family)));
    let Some((options, family)) = found else {
        let families: Vec<String> = FAMILIES.iter().map(|family| family.join("/")).collect();
        let families = families.join(", ");
        return Err(format!("found answer format {named:?} in the instruction, expected words of one of {families}"));
    };
    let again = options.iter().enumerate().find(|(i, word)| options[..*i].contains(word));
    match (options.len(), again) {
        (1, _) => Err(format!("found answer format {named:?} in the instruction, expected at least two answers")),
        (_, Some((_, word))) => {
            Err(format!("found {word} twice in answer format {named:?}, expected each answer once"))
        }
        (_, None) => Ok((options, family)),
    }
}

/// Whether a question fits; an error where long ones are refused.
fn fits(question: &Question, options: &LoadOptions) -> Result<bool, Problem> {
    let longest = question.options.iter().map(|option| option.completion.len()).max().unwrap_or(0);
    let (length, limit) = (question.prompt.len() + longest, options.max_seq_len);
    if length > limit && options.long_rows != LongRows::Drop {
        return Err(format!(
            "found a question of {length} tokens with its answer, expected at most {limit} (raise --max-seq-len, or \
             choose --long-rows drop)"
        ));
    }
    Ok(length <= limit)
}
