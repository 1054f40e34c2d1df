//! The peak memory that a run is predicted to have, from its model, rows and options.

use dora_adapters::memory::{Prediction, Run, Trained as What, predict};
use dora_adapters::targets::Target;
use dora_models::shape::PassSize;
use dora_train::data::{Dataset, Plan};

use super::Trained;
use super::settings::Args;
use crate::base::Base;
use crate::commands::eval::BATCH_TOKENS;

/// Predicts the peak of a run of so many steps.
pub(super) fn of_run(
    args: &Args,
    steps: usize,
    base: &Base,
    data: &Dataset,
    plan: &Plan,
    held_out: Option<&Dataset>,
    trained: &Trained,
) -> Prediction {
    let targets: Vec<Target> = trained.adapter.iter().flat_map(|adapter| adapter.targets().cloned()).collect();
    let what = trained.adapter.as_ref().map_or(What::Everything, |adapter| What::Adapter {
        targets: &targets,
        use_dora: adapter.config().use_dora,
        dropout: adapter.config().lora_dropout > 0.0,
    });
    predict(&Run {
        shape: base.model.shape(),
        dtype: base.dtype,
        nf4: base.nf4,
        trained: what,
        pass: plan.largest_pass(data, steps),
        accumulates: args.accumulates(),
        recompute_blocks: args.gradient_checkpointing,
        evaluation: held_out.map_or(PassSize::default(), |rows| rows.largest_evaluation(BATCH_TOKENS)),
        row_tokens: data.report.tokens + held_out.map_or(0, |rows| rows.report.tokens),
        threads: rayon::current_num_threads(),
    })
}
