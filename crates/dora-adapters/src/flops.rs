//! Floating-point operations of a training step, counted from a model's shape: what time goes by, where products dominate.
//!
//! A token costs, for each linear layer, 2·in·out forward and 2·in·out for dx; where the layer is trained, as much for dW; an
//! adapter of rank r 6·r·(in + out). Attention over T tokens costs 2·T·Q forward and 5·T·Q backward (probabilities are computed
//! again), and 2·T·Q more where a layer needs its result and it was not kept. A block that is computed again costs its forward pass
//! once more. The output embedding costs as a linear layer, for tokens that carry loss. DoRA's norms cost 2·r·in·out a layer and step. Widening 4-bit weights is not counted.

use crate::memory::{Run, Trained};
use dora_models::shape::{LinearShape, ModelShape};
use dora_tensor::Device;
use dora_tensor::ops::keeps_attention;

/// Operations a token of a step that has `step_tokens` tokens in passes as `run` has them.
pub fn per_token(run: &Run, step_tokens: usize) -> f64 {
    let ModelShape { linears, activations, .. } = run.shape;
    let elements = |linear: &LinearShape| (linear.in_features * linear.out_features) as f64;
    let of = |output: bool| linears.iter().filter(|l| l.output_embedding == output).map(elements).sum::<f64>();
    let (blocks, head) = (of(false), of(true) * run.pass.labelled as f64 / run.pass.tokens.max(1) as f64);
    let attention = (activations.blocks * activations.attention_width * run.pass.longest) as f64;
    let trained = if let Trained::Everything = run.trained { 3.0 } else { 2.0 };
    let (adapter, norms) = match run.trained {
        Trained::Everything => (0.0, 0.0),
        Trained::Adapter { targets, use_dora, .. } => {
            let sides = targets.iter().map(|t| t.rank * (t.linear.in_features + t.linear.out_features));
            let cross = targets.iter().map(|t| 2.0 * t.rank as f64 * elements(&t.linear)).sum::<f64>();
            (2.0 * sides.sum::<usize>() as f64, if use_dora { cross / step_tokens as f64 } else { 0.0 })
        }
    };
    let again = run.needs_attention() && !keeps_attention(Device::Cpu, run.pass.longest);
    let backward = if again { 7.0 } else { 5.0 };
    let forward = 2.0 * blocks + 2.0 * attention + adapter;
    let again = if run.recompute_blocks { forward } else { 0.0 };
    2.0 * trained * (blocks + head) + (2.0 + backward) * attention + 3.0 * adapter + norms + again
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AdapterConfig, Purpose, TargetModules};
    use crate::memory::predict;
    use crate::targets::{Target, resolve};
    use dora_models::shape::PassSize;
    use dora_tensor::DType;

    #[test]
    fn methods_cost_what_their_products_do() {
        let shape = dora_models::published::find("llama-2-7b").unwrap().description().shape;
        let config = AdapterConfig { r: 16, target_modules: TargetModules::AllLinear, ..Default::default() };
        let targets = resolve(&config, &shape, &[], Purpose::Begin).unwrap();
        let cost = |trained, tokens: usize, recompute_blocks| {
            let pass = PassSize { tokens, longest: 1, labelled: tokens };
            let run = Run {
                shape: &shape,
                dtype: DType::BF16,
                nf4: None,
                trained,
                pass,
                accumulates: false,
                recompute_blocks,
                evaluation: PassSize::default(),
                row_tokens: 0,
                threads: 1,
            };
            per_token(&run, tokens)
        };
        let lora = Trained::Adapter { targets: &targets, use_dora: false, dropout: false };
        let dora = Trained::Adapter { targets: &targets, use_dora: true, dropout: false };
        // 6 a parameter, 4 where dW is not due; the embedding is looked up only.
        let full = cost(Trained::Everything, 64, false);
        assert!((full / (6.0 * (6_738_415_616.0 - 32_000.0 * 4096.0)) - 1.0).abs() < 1e-3);
        let base = cost(lora, 64, false);
        assert!((1.4..1.5).contains(&(full / base)), "{}", full / base);
        // The cross term is r/(2·tokens) of the base's 4·in·out.
        for tokens in [64, 1024] {
            let more = cost(dora, tokens, false) / cost(lora, tokens, false) - 1.0;
            let expected = 16.0 / (2.0 * tokens as f64);
            assert!((0.9 * expected..expected).contains(&more), "{more} {expected}");
        }
        assert!((1.45..1.51).contains(&(cost(lora, 64, true) / base)));
        // A token that carries no loss has no logits.
        let silent = PassSize { tokens: 64, longest: 1, labelled: 0 };
        let run = Run {
            shape: &shape,
            dtype: DType::BF16,
            nf4: None,
            trained: lora,
            pass: silent,
            accumulates: false,
            recompute_blocks: false,
            evaluation: silent,
            row_tokens: 0,
            threads: 1,
        };
        assert_eq!(base - per_token(&run, 64), 4.0 * 32_000.0 * 4096.0);
        // Attention's result is computed again in short documents and kept in long ones, where o_proj has an adapter.
        let activations = |targets: &[Target], longest: usize| {
            let trained = Trained::Adapter { targets, use_dora: false, dropout: false };
            let run = Run { trained, pass: PassSize { tokens: 512, longest, labelled: 512 }, ..run };
            let ranks: usize = targets.iter().map(|target| target.rank).sum();
            let kept = predict(&run).terms.iter().find(|term| term.0 == "activations").unwrap().1 / (4 * 512) - ranks;
            (kept, per_token(&run, 512) / (32.0 * 4096.0 * longest as f64))
        };
        let without: Vec<Target> = targets.iter().filter(|t| !t.linear.path.ends_with(".o_proj")).cloned().collect();
        let ((short, _), (long, _), (other, _)) =
            (activations(&targets, 256), activations(&targets, 512), activations(&without, 512));
        assert_eq!((long - short, other), (32 * 4096, short));
        // A score costs 7 FLOPs for each element of a query, and 9 where the result is computed again.
        let cost = |targets, longest: usize| activations(targets, longest).1 * longest as f64;
        assert_eq!((cost(&targets[..], 512) - cost(&targets[..], 256)).round(), 7.0 * 512.0 - 9.0 * 256.0);
        assert_eq!((cost(&without[..], 512) - cost(&without[..], 256)).round(), 7.0 * 256.0);
    }
}
