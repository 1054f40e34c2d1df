//! What is measured: groups of cases whose runs alternate, as a table.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use dora_gpu_check::synth;
use serde_json::Value;

/// Cases that are measured in turn.
pub struct Group {
    /// What `--only` calls it.
    pub name: &'static str,
    /// Times that every run is made.
    pub rounds: usize,
    /// Whether `gemm`'s own rate is measured in each round, at the first case's shapes and tokens a step.
    pub gemm: bool,
    /// The cases.
    pub cases: &'static [Case],
}

/// A workload.
pub struct Case {
    /// Name in the tables.
    pub name: &'static str,
    /// Base model.
    pub model: Model,
    /// Rows.
    pub rows: Rows,
    /// Rows a step.
    pub batch: usize,
    /// Rank of the adapter, on all linear layers but the output embedding.
    pub rank: usize,
    /// Steps of a round after its first, which is warm-up.
    pub steps: usize,
    /// Methods of ours.
    pub methods: &'static [&'static str],
    /// Methods that PEFT runs too, where there are peers.
    pub peer_methods: &'static [&'static str],
}

/// A base model.
#[derive(Clone, Copy, PartialEq)]
pub enum Model {
    /// SmolLM2-135M's shape with random weights: the peers', in `f32`, or else ours, in bf16.
    Random135,
    /// SmolLM2-135M-Instruct of the peers' folder; its shape with random weights where `or_shape` and there are none.
    SmolLm2 { or_shape: bool },
    /// SmolLM2-135M's shape and context, with random weights in bf16.
    Shape,
    /// The model that is part of `dora`.
    Demo,
}

/// Rows of token ids.
#[derive(Clone, Copy)]
pub enum Rows {
    /// Random ids, so many a row, all labelled.
    Random(usize),
    /// The first rows of the peers' folder for a task, labelled where the answer is.
    Task(&'static str),
}

const ALL: &[&str] = &["lora", "dora", "qlora", "qdora"];
const SMOLLM2: Model = Model::SmolLm2 { or_shape: false };

const fn growth(name: &'static str, tokens: usize, steps: usize) -> Case {
    let (model, rows) = (Model::Shape, Rows::Random(tokens));
    Case { name, model, rows, batch: 1, rank: 16, steps, methods: &["dora"], peer_methods: &[] }
}

/// What DoRA adds to LoRA's step is a few parts in a hundred, less than a machine's speed changes within minutes: these two in turn.
const fn overhead(name: &'static str, rank: usize) -> Case {
    let (model, rows) = (Model::Random135, Rows::Random(256));
    Case { name, model, rows, batch: 4, rank, steps: 2, methods: &["lora", "dora"], peer_methods: &[] }
}

const fn task(name: &'static str) -> Case {
    let rows = Rows::Task(name);
    Case { name, model: SMOLLM2, rows, batch: 8, rank: 16, steps: 3, methods: ALL, peer_methods: &["dora"] }
}

/// All groups.
pub const GROUPS: &[Group] = &[
    Group {
        name: "random135",
        rounds: 3,
        gemm: true,
        cases: &[Case {
            name: "random135, 4 x 256",
            model: Model::Random135,
            rows: Rows::Random(256),
            batch: 4,
            rank: 16,
            steps: 2,
            methods: ALL,
            peer_methods: &["dora", "qdora"],
        }],
    },
    Group {
        name: "short",
        rounds: 3,
        gemm: false,
        cases: &[Case {
            name: "random135, 1 x 64",
            model: Model::Random135,
            rows: Rows::Random(64),
            batch: 1,
            rank: 16,
            steps: 6,
            methods: ALL,
            peer_methods: &["dora"],
        }],
    },
    Group { name: "overhead", rounds: 8, gemm: false, cases: &[overhead("rank 16, 4 x 256", 16)] },
    Group { name: "rank128", rounds: 6, gemm: false, cases: &[overhead("rank 128, 4 x 256", 128)] },
    Group {
        name: "growth",
        rounds: 3,
        gemm: false,
        cases: &[growth("1 x 256", 256, 4), growth("1 x 1024", 1024, 2), growth("1 x 4096", 4096, 2)],
    },
    Group {
        name: "start",
        rounds: 5,
        gemm: false,
        cases: &[Case {
            name: "start",
            model: Model::SmolLm2 { or_shape: true },
            rows: Rows::Random(64),
            batch: 1,
            rank: 16,
            steps: 0,
            methods: &["dora"],
            peer_methods: &[],
        }],
    },
    Group { name: "openbookqa", rounds: 3, gemm: false, cases: &[task("openbookqa")] },
    Group { name: "boolq", rounds: 3, gemm: false, cases: &[task("boolq")] },
    Group {
        name: "demo",
        rounds: 2,
        gemm: true,
        cases: &[Case {
            name: "demo",
            model: Model::Demo,
            rows: Rows::Random(17),
            batch: 2,
            rank: 3,
            steps: 3,
            methods: ALL,
            peer_methods: &["dora"],
        }],
    },
];

impl Group {
    /// Whether it can be measured with the peers' folder only.
    pub fn needs_peers(&self) -> bool {
        self.cases.iter().any(|case| case.model == SMOLLM2 || matches!(case.rows, Rows::Task(_)))
    }
}

impl Case {
    /// The folder of its model; one of random weights is written into `dir` when it is not there.
    pub fn model_dir(&self, root: &Path, dir: &Path, peers: Option<&Path>) -> Result<PathBuf> {
        let folder = match (self.model, peers) {
            (Model::Demo, _) => root.join("crates/dora-cli/assets/model"),
            (Model::Random135, Some(peers)) => peers.join("random135"),
            (Model::SmolLm2 { .. }, Some(peers)) => peers.join("smollm2"),
            _ => {
                let folder = dir.join("smollm2-135m-shape");
                if !folder.join("config.json").exists() {
                    eprintln!("writing a model of random weights");
                    let unfinished = dir.join("smollm2-135m-shape.part");
                    synth::checkpoint("smollm2-135m", &unfinished, 0)?;
                    std::fs::rename(unfinished, &folder)?;
                }
                folder
            }
        };
        let config = folder.join("config.json");
        ensure!(config.exists(), "{} is not there, expected a model", config.display());
        Ok(folder)
    }

    /// Its rows by round, a line each, as many as the round's steps take.
    pub fn rows(&self, model: &Path, peers: Option<&Path>, rounds: usize) -> Result<Vec<Vec<String>>> {
        let per_round = self.batch * (1 + self.steps);
        let rows = match self.rows {
            Rows::Random(tokens) => {
                let path = model.join("config.json");
                let config: Value = serde_json::from_slice(&std::fs::read(&path)?)
                    .with_context(|| format!("reading {}", path.display()))?;
                let vocabulary = config["vocab_size"].as_u64().context("config.json has no vocab_size")?;
                synth::rows(rounds * per_round, tokens, vocabulary as usize)
            }
            Rows::Task(task) => {
                let path = peers.context("rows of a task need peers")?.join(format!("rows/{task}-train.jsonl"));
                let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
                text.lines().take(rounds * per_round).map(str::to_owned).collect()
            }
        };
        ensure!(
            rows.len() == rounds * per_round,
            "{}: {} rows, expected {}",
            self.name,
            rows.len(),
            rounds * per_round
        );
        Ok(rows.chunks(per_round).map(<[String]>::to_vec).collect())
    }

    /// Most tokens of a row, where it is known.
    pub fn longest(&self) -> Option<usize> {
        match self.rows {
            Rows::Random(tokens) => Some(tokens),
            Rows::Task(_) => None,
        }
    }
}
