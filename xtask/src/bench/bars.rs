//! What speed and memory must reach, and whether they did.

use super::results::{Results, Round, Side, median, peak};

/// A floor or a ceiling.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// At least so much.
    AtLeast(f64),
    /// At most so much.
    AtMost(f64),
}

/// A case and a method of it.
type Work = (&'static str, &'static str);

/// What is compared.
#[derive(Debug, Clone, Copy)]
enum Quantity {
    /// PEFT's time for a step over ours: our tokens/s over PEFT's.
    FasterThanPeft(Work),
    /// PEFT's peak memory over ours.
    LessMemoryThanPeft(Work),
    /// The time of a step of a method over that of another, both ours.
    OverMethod(Work, &'static str),
    /// FLOPs a second of a step over the `gemm` crate's.
    ShareOfGemm(Work),
    /// Seconds from the program's start to the first step.
    Start(Work),
    /// Largest over smallest time per token without attention, among cases.
    Growth([Work; 3]),
}

/// A bar.
pub struct Bar {
    /// What it is about.
    pub name: &'static str,
    quantity: Quantity,
    /// What it must reach.
    pub bound: Bound,
}

/// A bar with what was measured.
pub struct Judged {
    /// The bar.
    pub bar: &'static Bar,
    /// Median, smallest and largest.
    pub measured: [f64; 3],
    /// Whether the median is within the bound.
    pub met: bool,
}

const fn bar(name: &'static str, quantity: Quantity, bound: Bound) -> Bar {
    Bar { name, quantity, bound }
}

use Bound::{AtLeast, AtMost};
use Quantity::{FasterThanPeft, Growth, LessMemoryThanPeft, OverMethod, ShareOfGemm, Start};

const R135: &str = "random135, 4 x 256";
const SHORT: &str = "random135, 1 x 64";

/// All bars.
const BARS: [Bar; 13] = [
    bar("4 x 256: DoRA, tokens/s over PEFT's", FasterThanPeft((R135, "dora")), AtLeast(1.7)),
    bar("4 x 256: QDoRA, tokens/s over PEFT's", FasterThanPeft((R135, "qdora")), AtLeast(1.75)),
    bar("1 x 64: DoRA, tokens/s over PEFT's", FasterThanPeft((SHORT, "dora")), AtLeast(3.0)),
    bar("openbookqa: DoRA, tokens/s over PEFT's", FasterThanPeft(("openbookqa", "dora")), AtLeast(2.5)),
    bar("boolq: DoRA, tokens/s over PEFT's", FasterThanPeft(("boolq", "dora")), AtLeast(2.3)),
    bar("rank 16, 4 x 256: DoRA's step over LoRA's", OverMethod(("rank 16, 4 x 256", "dora"), "lora"), AtMost(1.03)),
    bar("rank 128, 4 x 256: DoRA's step over LoRA's", OverMethod(("rank 128, 4 x 256", "dora"), "lora"), AtMost(1.12)),
    bar("1 x 64: DoRA's step over LoRA's", OverMethod((SHORT, "dora"), "lora"), AtMost(1.20)),
    bar("4 x 256: QDoRA's step over DoRA's", OverMethod((R135, "qdora"), "dora"), AtMost(1.08)),
    bar("4 x 256: PEFT's peak memory over DoRA's", LessMemoryThanPeft((R135, "dora")), AtLeast(4.5)),
    bar("4 x 256: DoRA's FLOP/s over the gemm crate's", ShareOfGemm((R135, "dora")), AtLeast(0.80)),
    bar("start: seconds to the first step", Start(("start", "dora")), AtMost(1.5)),
    bar(
        "growth: time per token without attention, largest over smallest",
        Growth([("1 x 256", "dora"), ("1 x 1024", "dora"), ("1 x 4096", "dora")]),
        AtMost(1.10),
    ),
];

/// The bars for which there is what they need.
pub fn judge(results: &Results) -> Vec<Judged> {
    let judged = |bar: &'static Bar| {
        let values = bar.quantity.values(results);
        let least = values.iter().copied().min_by(f64::total_cmp)?;
        let most = values.iter().copied().max_by(f64::total_cmp)?;
        let middle = median(&values)?;
        Some(Judged { bar, measured: [middle, least, most], met: bar.bound.holds(middle) })
    };
    BARS.iter().filter_map(judged).collect()
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            AtLeast(bound) => value >= bound,
            AtMost(bound) => value <= bound,
        }
    }
}

impl Quantity {
    /// A value for each step, or each round; none where something was not measured.
    fn values(self, results: &Results) -> Vec<f64> {
        let ours = |(case, method): Work| results.rounds(case, method, Side::Ours);
        let peft = |(case, method): Work| results.rounds(case, method, Side::Peft);
        match self {
            FasterThanPeft(work) => step_ratios(peft(work), ours(work)),
            OverMethod(work, other) => step_ratios(ours(work), ours((work.0, other))),
            LessMemoryThanPeft(work) => {
                peak(peft(work)).zip(peak(ours(work))).map(|(peft, ours)| peft / ours).into_iter().collect()
            }
            ShareOfGemm(work) => {
                let rounds = ours(work).iter().zip(results.gemm(work.0));
                rounds.flat_map(|(round, gemm)| gflops(round).into_iter().map(move |rate| rate / gemm)).collect()
            }
            Start(work) => ours(work).iter().filter_map(|round| round.inside).map(|inside| inside.start_s).collect(),
            Growth(works) => {
                let [small, middle, large] = works.map(|work| ours(work).iter().filter_map(seconds_per_token));
                let spread = |times: [f64; 3]| {
                    times.iter().fold(0f64, |a, b| a.max(*b)) / times.iter().fold(f64::MAX, |a, b| a.min(*b))
                };
                small.zip(middle).zip(large).map(|((a, b), c)| spread([a, b, c])).collect()
            }
        }
    }
}

/// Seconds of a side's steps over another's for the same steps.
fn step_ratios(over: &[Round], under: &[Round]) -> Vec<f64> {
    let steps = |rounds: &[Round]| rounds.iter().flat_map(|round| round.steps.clone()).collect::<Vec<_>>();
    steps(over).iter().zip(&steps(under)).map(|(over, under)| over.seconds / under.seconds).collect()
}

/// GFLOP/s of every step.
fn gflops(round: &Round) -> Vec<f64> {
    let per_token = round.inside.map_or(0.0, |inside| inside.flops_per_token);
    round.steps.iter().map(|step| per_token * step.tokens / step.seconds / 1e9).collect()
}

/// Median time per token, less attention's share.
fn seconds_per_token(round: &Round) -> Option<f64> {
    let times: Vec<f64> = round.steps.iter().map(|step| step.seconds / step.tokens).collect();
    Some(median(&times)? * (1.0 - round.inside?.attention_share))
}

#[cfg(test)]
mod tests {
    use super::super::results::{Inside, Step};
    use super::*;

    fn round(seconds: &[f64], tokens: f64, attention_share: f64) -> Round {
        let steps = seconds.iter().map(|&seconds| Step { tokens, seconds }).collect();
        let inside = Inside { flops_per_token: 2e9, attention_share, start_s: seconds[0] };
        Round { steps, peak_rss_mb: 100.0 * seconds[0], inside: Some(inside) }
    }

    fn one(results: &Results, name: &str) -> ([f64; 3], bool) {
        let judged = judge(results);
        let found = judged.iter().find(|judged| judged.bar.name.contains(name)).unwrap();
        (found.measured, found.met)
    }

    #[test]
    fn ratios_are_of_the_same_steps() {
        let mut results = Results::default();
        for (ours, peft) in [([2.0, 4.0], [4.0, 6.0]), ([1.0, 1.0], [3.0, 1.5])] {
            results.add((R135, "dora", Side::Ours), round(&ours, 10.0, 0.0));
            results.add((R135, "dora", Side::Peft), Round { inside: None, ..round(&peft, 10.0, 0.0) });
        }
        // 2, 1.5, 3, 1.5
        assert_eq!(one(&results, "4 x 256: DoRA, tokens/s"), ([1.75, 1.5, 3.0], true));
        assert_eq!(one(&results, "peak memory"), ([2.0, 2.0, 2.0], false));
        assert_eq!(judge(&results).len(), 2, "nothing else can be told");
        // 10, 5, 20 and 20 GFLOP/s.
        results.add_gemm(R135, 10.0);
        results.add_gemm(R135, 40.0);
        assert_eq!(one(&results, "gemm crate's"), ([0.5, 0.5, 1.0], false));
        results.add((R135, "qdora", Side::Ours), round(&[2.0, 4.0], 10.0, 0.0));
        assert_eq!(one(&results, "QDoRA's step over DoRA's"), ([1.0, 1.0, 1.0], true));
    }

    #[test]
    fn growth_leaves_attention_out() {
        let mut results = Results::default();
        for (case, seconds, tokens, share) in
            [("1 x 256", 2.56, 256.0, 0.0), ("1 x 1024", 12.8, 1024.0, 0.2), ("1 x 4096", 98.304, 4096.0, 0.5)]
        {
            results.add((case, "dora", Side::Ours), round(&[seconds], tokens, share));
        }
        let (measured, met) = one(&results, "growth");
        assert!((measured[0] - 1.2).abs() < 1e-9 && !met, "{measured:?}");
    }
}
