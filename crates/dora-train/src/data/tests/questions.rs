//! Questions: what is read from a record, and each refusal with its message.

use serde_json::{Value, json};
use std::fs;

use super::*;

/// Words by white space: the known answers and a few more; every other word is id 2. Ids 0 and 1 are BOS and EOS.
fn tokenizer() -> Tokenizer {
    let known = ["true", "false", "answer1", "answer2", "answer3", "is", "it", "said", "that"];
    let vocab: String = known.iter().enumerate().map(|(i, word)| format!(r#","{word}":{}"#, 3 + i)).collect();
    let text = format!(
        r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
            "pre_tokenizer":{{"type":"WhitespaceSplit"}},"post_processor":null,"decoder":null,
            "model":{{"type":"WordLevel","vocab":{{"<s>":0,"</s>":1,"?":2{vocab}}},"unk_token":"?"}}}}"#
    );
    Tokenizer::from_bytes(text.as_bytes()).unwrap()
}

fn record(instruction: &str, output: &str, answer: &str) -> Value {
    json!({ "instruction": instruction, "input": "", "output": output, "answer": answer })
}

const ROOM: LoadOptions = LoadOptions { max_seq_len: 60, long_rows: LongRows::Refuse, vocab_size: 40, eos_id: Some(1) };

fn load(records: &[Value], options: &LoadOptions) -> std::result::Result<Questions, String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("q.jsonl");
    fs::write(&file, records.iter().map(|record| format!("{record}\n")).collect::<String>()).unwrap();
    let folder = format!("{}/", dir.path().display());
    Questions::load(&[file], &tokenizer(), options).map_err(|e| e.to_string().replace(&folder, ""))
}

#[test]
fn a_question_offers_what_its_instruction_names() {
    let records = [
        record("Is it?\n\nAnswer format: true/false", "it is true", "true"),
        record("Which?\n\nAnswer format: answer3/answer1", "said that answer1", "answer1"),
    ];
    let loaded = load(&records, &ROOM).unwrap();
    let [(first, a), (second, b)] = &loaded.questions[..] else { panic!("{} questions", loaded.questions.len()) };
    assert_eq!((*first, *second, loaded.read, loaded.dropped_long), (0, 1, 2, 0));
    assert_eq!((a.gold, a.family, b.gold, b.family), (0, FAMILIES[0], 1, FAMILIES[2]));
    let spoken = |q: &Question| q.options.iter().map(|o| (o.word, o.completion.clone())).collect::<Vec<_>>();
    assert_eq!(spoken(a), [("true", vec![9, 8, 3]), ("false", vec![9, 8, 4])]);
    assert_eq!(spoken(b), [("answer3", vec![10, 11, 7]), ("answer1", vec![10, 11, 5])]);
    // The prompt is that of training: the same tokens as a row's without a label.
    let row = Dataset::load_of(&records[0], &ROOM);
    let unlabelled = row.labels.iter().filter(|label| **label == IGNORE).count();
    assert_eq!(a.prompt, row.input_ids[..unlabelled]);
    assert_eq!(row.input_ids[unlabelled..], [9, 8, 3, 1]);
}

impl Dataset {
    fn load_of(record: &Value, options: &LoadOptions) -> Row {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("r.jsonl");
        fs::write(&file, record.to_string()).unwrap();
        Dataset::load(&[file], Some(&tokenizer()), options).unwrap().rows.remove(0)
    }
}

#[test]
fn the_hash_names_the_question() {
    let hash = |record: Value| load(&[record], &ROOM).unwrap().questions[0].1.hash.clone();
    let base = record("Is it?\nAnswer format: true/false", "it is true", "true");
    assert_eq!(hash(base.clone()), hash(base.clone()));
    assert_eq!(hash(base.clone()).len(), 16);
    for other in [
        record("Is it? \nAnswer format: true/false", "it is true", "true"),
        record("Is it?\nAnswer format: true/false", "that is true", "true"),
        record("Is it?\nAnswer format: true/false", "it is false", "false"),
    ] {
        assert_ne!(hash(other), hash(base.clone()));
    }
}

#[test]
fn the_first_word_of_the_family_is_the_answer() {
    let answers = FAMILIES[2];
    assert_eq!(extract("the correct answer is answer3, not answer1", answers), Some("answer3"));
    assert_eq!(extract("\nanswer5answer2", answers), Some("answer5"));
    assert_eq!(extract("Answer1, answer 2, ANSWER3, answer6", answers), None);
    assert_eq!(extract("untrue: false", FAMILIES[0]), Some("true"));
    assert_eq!(extract("", FAMILIES[0]), None);
    for family in FAMILIES {
        for (word, other) in family.iter().flat_map(|word| family.iter().map(move |other| (word, other))) {
            assert!(word == other || !other.starts_with(word), "{word} {other}");
        }
    }
}

#[track_caller]
fn refuses(record: Value, problem: &str) {
    let good = self::record("Is it?\nAnswer format: true/false", "it is true", "true");
    assert_eq!(load(&[good, record], &ROOM).unwrap_err(), format!("q.jsonl:2: {problem}"));
}

#[test]
fn refusals() {
    let format = "Is it?\nAnswer format: true/false";
    refuses(
        record("Is it?", "it is true", "true"),
        "found no `Answer format:` in the instruction, expected it to end in a line like `Answer format: true/false`",
    );
    let families = "true/false, solution1/solution2, answer1/answer2/answer3/answer4/answer5, \
                    ending1/ending2/ending3/ending4, option1/option2";
    for named in ["yes/no", "true/answer1", "answer1/answer6", "true/false\nOr not?", ""] {
        refuses(
            record(&format!("Is it?\nAnswer format: {named}"), "it is true", "true"),
            &format!("found answer format {named:?} in the instruction, expected words of one of {families}"),
        );
    }
    refuses(
        record("Is it?\nAnswer format: true", "it is true", "true"),
        "found answer format \"true\" in the instruction, expected at least two answers",
    );
    refuses(
        record("Is it?\nAnswer format: true/false/true", "it is true", "true"),
        "found true twice in answer format \"true/false/true\", expected each answer once",
    );
    refuses(record(format, "it is True", "True"), "found answer \"True\", expected one of true, false");
    refuses(record(format, "it is answer1", "answer1"), "found answer \"answer1\", expected one of true, false");
    refuses(
        record(format, "it is false", "true"),
        "found output \"it is false\", expected a sentence that ends in its answer \"true\"",
    );
    refuses(record(format, "", "true"), "found an empty `output`, expected text to learn");
    let mut other = record(format, "it is true", "true");
    other["choices"] = json!(["true"]);
    refuses(other, "found key `choices`, expected `instruction`, `input`, `output` and `answer` only");
    let text = json!({ "text": "it is true" });
    refuses(text, "found key `text`, expected `instruction`, `input`, `output` and `answer` only");
    refuses(json!({ "instruction": format, "output": "it is true" }), "found null as `answer`, expected a string");
    // Neither word is in the vocabulary: both are the unknown token.
    refuses(
        record("Which?\nAnswer format: option1/option2", "it is option1", "option1"),
        "the tokenizer does not tell option1 from option2, expected different tokens for each answer",
    );
}

#[test]
fn long_questions() {
    let long = record(&format!("{}\nAnswer format: true/false", "is ".repeat(40)), "it is true", "true");
    let short = record("Is it?\nAnswer format: true/false", "it is false", "false");
    let message = load(&[short.clone(), long.clone()], &ROOM).unwrap_err();
    let expected = "expected at most 60 (raise --max-seq-len, or choose --long-rows drop)";
    assert!(message.starts_with("q.jsonl:2: found a question of ") && message.ends_with(expected), "{message}");
    let drop = LoadOptions { long_rows: LongRows::Drop, ..ROOM };
    let loaded = load(&[long.clone(), short], &drop).unwrap();
    assert_eq!((loaded.questions.len(), loaded.questions[0].0, loaded.read, loaded.dropped_long), (1, 1, 2, 1));
    let message = load(&[long], &drop).unwrap_err();
    assert_eq!(message, "q.jsonl: all 1 questions are longer than --max-seq-len, expected at least one that fits");
    let ids = LoadOptions { vocab_size: 9, ..ROOM };
    let message = load(&[record("Is it?\nAnswer format: true/false", "it is true", "true")], &ids).unwrap_err();
    assert_eq!(message, "q.jsonl:1: token id 9 at position 0 is beyond the embedding's 9 rows");
}
