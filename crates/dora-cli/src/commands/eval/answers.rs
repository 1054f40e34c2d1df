//! `dora eval --task answers`: the share of multiple-choice questions that a model answers right, with its exact 95 %
//! interval (Clopper and Pearson) and what guessing would give.

use std::time::Instant;

use anyhow::Result;
use dora_models::tokenizer::Tokenizer;
use dora_stats::{Interval, accuracy_interval};
use dora_train::answers::{generated, option_losses};
use dora_train::data::{LongRows, Question, Questions};
use serde_json::json;

use super::{Args, BATCH_TOKENS, By, Outcome};
use crate::base::Base;
use crate::console::{Console, Progress};
use crate::failure::Usage;
use crate::results::{self, AnswerLine};

/// The questions, and what reads their text.
pub fn load<'a>(args: &Args, base: &'a Base) -> Result<(Questions, &'a Tokenizer)> {
    let Some(tokenizer) = &base.tokenizer else {
        let path = base.dir.display();
        return Err(Usage(format!("{path} has no tokenizer.json, expected one to read questions")).into());
    };
    let options = args.rows.options(base)?;
    if options.long_rows == LongRows::Truncate {
        let text =
            "--long-rows truncate would cut a question before its answer, expected refuse or drop with --task answers";
        return Err(Usage(text.into()).into());
    }
    Ok((Questions::load(&args.data, tokenizer, &options)?, tokenizer))
}

/// Answers every question and scores the answers.
pub fn score(args: &Args, base: &Base, console: &Console) -> Result<Outcome> {
    let (data, tokenizer) = load(args, base)?;
    if data.dropped_long > 0 {
        let (dropped, read) = (data.dropped_long, data.read);
        console.note(format!("note: {dropped} of {read} questions left out: longer than --max-seq-len"));
    }
    let start = Instant::now();
    let mut scored =
        Scored { data: &data, lines: Vec::new(), right: 0, progress: Progress::new("question", data.questions.len()) };
    let by = args.by.unwrap_or(By::Likelihood);
    match by {
        By::Likelihood => {
            let questions = data.questions.iter().map(|(_, question)| question);
            option_losses(&*base.model, questions, BATCH_TOKENS, |losses| scored.by_likelihood(losses))?;
        }
        By::Generation => {
            let eos = base.eos_token_ids();
            for (_, question) in &data.questions {
                let (text, answer) = generated(&*base.model, tokenizer, question, &eos)?;
                scored.by_generation(text, answer);
            }
        }
    }
    scored.progress.finish();
    let Scored { lines, right, .. } = scored;
    let n = lines.len();
    let accuracy = right as f64 / n as f64;
    let Interval { low, high } = accuracy_interval(right, n);
    let guessing = data.questions.iter().map(|(_, q)| 1.0 / q.options.len() as f64).sum::<f64>() / n as f64;
    let unparsed = lines.iter().filter(|line| !line.parsed).count();
    let losses: Vec<f64> = lines.iter().filter_map(|line| line.loss).collect();
    let loss = (by == By::Likelihood).then(|| losses.iter().sum::<f64>() / n as f64);
    let last = match loss {
        Some(loss) => format!("loss of the right answer {loss:.4}"),
        None => format!("{unparsed} without an answer ({:.1} %)", 100.0 * unparsed as f64 / n as f64),
    };
    let text = format!(
        "accuracy {accuracy:.4}  ({right} of {n}; 95 % interval {low:.4} to {high:.4}; guessing gives {guessing:.4})  {last}"
    );
    let object = json!({
        "task": "answers", "by": if by == By::Likelihood { "likelihood" } else { "generation" },
        "accuracy": accuracy, "accuracy_low": low, "accuracy_high": high, "guessing": guessing, "questions": n, "right": right,
        "unparsed": unparsed, "unparsed_share": unparsed as f64 / n as f64, "loss": loss,
        "dropped_long": data.dropped_long, "seconds": start.elapsed().as_secs_f64(), "data_sha256": data.sha256,
    });
    let lines = lines.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
    Ok(Outcome { text, object: results::into_map(object), lines })
}

/// Answers so far, in the order of the questions.
struct Scored<'a> {
    data: &'a Questions,
    lines: Vec<AnswerLine>,
    right: usize,
    progress: Progress,
}

impl Scored<'_> {
    fn by_likelihood(&mut self, losses: Vec<f64>) {
        let (_, question) = &self.data.questions[self.lines.len()];
        let best = (1..losses.len()).fold(0, |best, i| if losses[i] < losses[best] { i } else { best });
        let named = question.options.iter().zip(&losses).map(|(option, loss)| (option.word.to_owned(), *loss));
        let line = AnswerLine {
            predicted: Some(question.options[best].word.into()),
            loss: Some(losses[question.gold]),
            losses: Some(named.collect()),
            ..self.line(question)
        };
        self.push(line);
    }

    fn by_generation(&mut self, text: String, answer: Option<&str>) {
        let (_, question) = &self.data.questions[self.lines.len()];
        let line = AnswerLine { predicted: answer.map(str::to_owned), text: Some(text), ..self.line(question) };
        self.push(line);
    }

    /// The line of the next question, without an answer.
    fn line(&self, question: &Question) -> AnswerLine {
        AnswerLine {
            index: self.data.questions[self.lines.len()].0,
            item: question.hash.clone(),
            gold: question.options[question.gold].word.into(),
            ..Default::default()
        }
    }

    fn push(&mut self, line: AnswerLine) {
        let parsed = line.predicted.is_some();
        let right = line.predicted.as_ref() == Some(&line.gold);
        self.right += usize::from(right);
        self.lines.push(AnswerLine { parsed, right, ..line });
        let done = self.lines.len();
        self.progress.step(done, format!("accuracy {:.4}", self.right as f64 / done as f64));
    }
}
