//! Operations at the layer shapes of SmolLM2-135M, 1,024 tokens as 4 documents of 256 (products of `f32` also 64), rank 16:
//! forward, and backward from a tape built beforehand. Throughput is FLOPs of matrix products ("elements") and bytes of operands and results, both as
//! `dora_tensor::profile` counts them in one call.
//!
//!     RAYON_NUM_THREADS=2 cargo bench -p dora-benches [NAME]

use std::sync::Arc;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use dora_tensor::ops::{
    AdamW, AttentionShape, Clip, Documents, LowRank, Matrix, Moments, Norms, attention, cross_entropy, dora_linear,
    linear, lora_linear, rms_norm,
};
use dora_tensor::rng::Philox;
use dora_tensor::{DType, DenseWeight, Nf4Options, Nf4Weight, Parameter, Role, Tensor, Weight, profile};

const TOKENS: usize = 1024;
const FEW: usize = 64;
const RANK: usize = 16;
const WIDTH: usize = 576;
const VOCABULARY: usize = 49152;
const HEADS: AttentionShape = AttentionShape { heads: 9, kv_heads: 3, head_dim: 64 };
/// (out, in) of q and o, k and v, gate and up, down.
const LAYERS: [(usize, usize); 4] = [(576, 576), (192, 576), (1536, 576), (576, 1536)];

criterion_group!(
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(700))
        .without_plots();
    targets = products, adapters, attentions, losses, norms, updates
);
criterion_main!(benches);

type Group<'a> = BenchmarkGroup<'a, WallTime>;

/// Frozen products of every precision.
fn products(criterion: &mut Criterion) {
    for (out, inner) in LAYERS {
        for (name, weight) in weights(out, inner) {
            let matrix = Matrix::Frozen(weight);
            for tokens in [TOKENS, FEW].into_iter().filter(|&tokens| tokens == TOKENS || name == "f32") {
                let few = if tokens == FEW { ", 64 tokens" } else { "" };
                let mut group = criterion.benchmark_group(format!("{name} {out}x{inner}{few}"));
                let x = random(&[tokens, inner]);
                both(&mut group, &[tokens, out], || linear(&leaf(&x), &matrix, None).expect("the shapes agree"));
            }
        }
    }
}

/// LoRA and DoRA over `f32` and 4-bit weights.
fn adapters(criterion: &mut Criterion) {
    for (out, inner) in [(576, 576), (1536, 576), (576, 1536)] {
        for (name, weight) in weights(out, inner).into_iter().filter(|(name, _)| *name != "bf16") {
            let (x, a, b) = (random(&[TOKENS, inner]), random(&[RANK, inner]), random(&[out, RANK]));
            let update = || LowRank { a: leaf(&a), b: leaf(&b), scaling: 2.0, dropout: None };
            let mut group = criterion.benchmark_group(format!("lora over {name} {out}x{inner}"));
            both(&mut group, &[TOKENS, out], || {
                lora_linear(&leaf(&x), &weight, None, &update()).expect("the shapes agree")
            });
            drop(group);
            let (m, base) = (random(&[out]), weight.row_norms_squared().expect("a matrix has norms"));
            let mut group = criterion.benchmark_group(format!("dora over {name} {out}x{inner}"));
            both(&mut group, &[TOKENS, out], || {
                let y = dora_linear(&leaf(&x), &weight, None, &update(), &leaf(&m), Norms::From(&base));
                y.expect("the shapes agree").0
            });
        }
    }
}

fn attentions(criterion: &mut Criterion) {
    let wide = HEADS.heads * HEADS.head_dim;
    let (q, k) = (random(&[TOKENS, wide]), random(&[TOKENS, HEADS.kv_heads * HEADS.head_dim]));
    for lengths in [vec![256; 4], vec![1024]] {
        let mut group = criterion.benchmark_group(format!("attention {}x{}", lengths.len(), lengths[0]));
        let documents = Arc::new(Documents::new(&lengths));
        both(&mut group, &[TOKENS, wide], || {
            let o = attention(&leaf(&q), &leaf(&k), &leaf(&k), &documents, HEADS, HEADS.scale());
            o.expect("the shapes agree")
        });
    }
}

/// The loss makes its gradients in the forward pass.
fn losses(criterion: &mut Criterion) {
    let (hidden, (_, head)) = (random(&[TOKENS / 4, WIDTH]), weights(VOCABULARY, WIDTH).remove(1));
    let targets: Vec<i32> = (0..TOKENS / 4).map(|i| (i * 8191 % VOCABULARY) as i32).collect();
    let head = Matrix::Frozen(head);
    let mut group = criterion.benchmark_group(format!("cross_entropy {}x{VOCABULARY}", TOKENS / 4));
    one(
        &mut group,
        "forward",
        || leaf(&hidden),
        |hidden| cross_entropy(&hidden, &head, &targets, 1.0).expect("the shapes agree"),
    );
}

fn norms(criterion: &mut Criterion) {
    let (x, weight) = (random(&[TOKENS, WIDTH]), random(&[WIDTH]));
    let mut group = criterion.benchmark_group(format!("rms_norm {TOKENS}x{WIDTH}"));
    both(&mut group, &[TOKENS, WIDTH], || rms_norm(&leaf(&x), &weight, 1e-5).expect("the shapes agree"));
}

fn updates(criterion: &mut Criterion) {
    let (value, gradient) = (random(&[1536, RANK]), random(&[1536, RANK]));
    let settings = AdamW { lr: 2e-4, weight_decay: 0.0, betas: [0.9, 0.999], eps: 1e-8, step: 1 };
    let clip = Clip::new(&[], std::slice::from_ref(&gradient), 0.0).expect("it is f32");
    let set_up = || {
        let parameter = Parameter::new("b", Role::Matrix, fresh(&value)).expect("it is f32");
        let moments = Moments::new(&parameter).expect("there is memory");
        (parameter, moments)
    };
    one(&mut criterion.benchmark_group(format!("adamw 1536x{RANK}")), "update", set_up, |(parameter, mut moments)| {
        settings.update(&parameter, &gradient, &mut moments, &clip).expect("the shapes agree");
        (parameter, moments)
    });
}

/// Benches an operation's two passes; `forward` records it over leaves of its own and gives the output, of that shape.
fn both(group: &mut Group, shape: &[usize], forward: impl Fn() -> Tensor) {
    one(group, "forward", || (), |()| forward());
    let gradient = random(shape);
    let set_up = || (forward(), fresh(&gradient));
    one(group, "backward", set_up, |(y, dy)| y.backward_from(dy).expect("the tape was just built"));
}

/// Benches `run` on what `set_up` gives.
fn one<T, O>(group: &mut Group, name: &str, set_up: impl Fn() -> T, run: impl Fn(T) -> O) {
    let input = set_up();
    profile::start();
    run(input);
    let counted = profile::finish();
    let (flops, bytes) = counted.iter().fold((0, 0), |(f, b), (_, _, total)| (f + total.flops, b + total.bytes));
    group.throughput(match flops {
        0 => Throughput::Bytes(bytes),
        _ => Throughput::ElementsAndBytes { elements: flops, bytes },
    });
    group.bench_function(name, |bencher| bencher.iter_batched(&set_up, &run, BatchSize::PerIteration));
}

/// The same matrix in `f32`, bf16 and NF4.
fn weights(out: usize, inner: usize) -> Vec<(&'static str, Arc<dyn Weight>)> {
    let matrix = random(&[out, inner]);
    let dense = |dtype| Arc::new(DenseWeight::new(matrix.to_dtype(dtype)).expect("it is a matrix"));
    let nf4 = Nf4Weight::quantize(&matrix, Nf4Options::default()).expect("its elements are finite");
    vec![("f32", dense(DType::F32)), ("bf16", dense(DType::BF16)), ("nf4", Arc::new(nf4))]
}

/// Normal numbers, the same for a shape.
fn random(shape: &[usize]) -> Tensor {
    let mut rng = Philox::new(0, 0);
    let elements = (0..shape.iter().product()).map(|_| rng.normal()).collect();
    Tensor::from_vec(elements, shape).expect("as many as the shape has")
}

/// A leaf of the tape with a gradient of its own.
fn leaf(value: &Tensor) -> Tensor {
    Parameter::new("leaf", Role::Matrix, value.clone()).expect("it is f32").tensor()
}

/// A copy that nobody else holds.
fn fresh(tensor: &Tensor) -> Tensor {
    Tensor::from_vec(tensor.to_vec(), tensor.shape()).expect("the shape is its own")
}
