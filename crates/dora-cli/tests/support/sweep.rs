//! Lines of `dora sweep` over small models.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Ran, Room, dora, embedded, plain, shown, token_rows};

/// Questions from `first` on, every second one with the answer true.
pub fn questions(first: usize, n: usize) -> Vec<Value> {
    let things = ["red", "three", "blue", "seven", "green", "ten", "white", "five", "black", "two"];
    let question = |i: usize| {
        let answer = if i.is_multiple_of(2) { "true" } else { "false" };
        json!({
            "instruction": format!("Is {} a colour? ({})\n\nAnswer format: true/false", things[i % 10], i / 10),
            "input": "", "output": format!("the correct answer is {answer}"), "answer": answer,
        })
    };
    (first..first + n).map(question).collect()
}

/// A sweep's line over rows of the tiny model, which has no tokenizer, or of the embedded one.
pub struct Case {
    pub room: Room,
    pub model: PathBuf,
}

impl Case {
    pub fn of_rows() -> Self {
        let room = Room::new();
        room.rows("train.jsonl", &token_rows(12));
        room.rows("held.jsonl", &token_rows(5));
        Case { room, model: plain() }
    }

    pub fn of_questions() -> Self {
        let room = Room::new();
        room.rows("train.jsonl", &questions(0, 24));
        room.rows("held.jsonl", &questions(30, 9));
        room.rows("tune.jsonl", &questions(50, 6));
        Case { room, model: embedded() }
    }

    pub fn line(&self, more: &[&str]) -> Vec<String> {
        let [train, held, out] = ["train.jsonl", "held.jsonl", "out"].map(|name| self.room.path(name));
        let line = [
            "sweep",
            "--model",
            shown(&self.model),
            "--data",
            shown(&train),
            "--eval-data",
            shown(&held),
            "--output",
            shown(&out),
        ];
        line.iter().chain(more).map(|word| (*word).to_owned()).collect()
    }

    pub fn sweep(&self, more: &[&str]) -> Ran {
        dora(self.line(more))
    }

    pub fn out(&self, name: &str) -> PathBuf {
        self.room.path("out").join(name)
    }
}

/// Two ranks and a small budget.
pub const SMALL: [&str; 4] = ["--json", "--ranks=2,3", "--max-steps=2", "--batch-size=4"];

/// These and more.
pub fn small<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&SMALL[..], more].concat()
}

/// The folders of finished runs.
pub fn folders(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.collect();
    names.sort();
    names
}
