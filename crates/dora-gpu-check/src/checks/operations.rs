//! The operations that the tape knows, and updates, norms and merging.

use std::sync::Arc;

use anyhow::Result;
use dora_tensor::ops::{
    AdamW, AttentionShape, Clip, Documents, Dropout, LowRank, Matrix, Moments, Norms, Pointwise, RopeTable, RowIds,
    attention, attention_cached, cross_entropy, dora_linear, dora_norms, dropout, embedding, index_select, linear,
    lora_linear, losses_at, merged, pointwise, residual, rms_norm, rope, swiglu,
};
use dora_tensor::rng::Stream;
use dora_tensor::{DType, DenseWeight, Device, Nf4Options, Nf4Weight, Parameter, Role, Tensor, Weight, no_grad};

use super::Kind::{Activation, Hidden, Magnitude, Trained};
use super::{Suite, difference, host};

const RANK: usize = 8;
const SCALING: f32 = 0.5;

pub(super) fn run(suite: &mut Suite) -> Result<()> {
    rows(suite)?;
    products(suite)?;
    attentions(suite)?;
    tables(suite)?;
    weights(suite)?;
    updates(suite)
}

fn mask() -> Result<Dropout> {
    Ok(Dropout::new(0.25, Stream { seed: 1 << 40 | 3, step: 5, op: 2 })?)
}

/// Norms, positions, gates and pointwise arithmetic.
fn rows(suite: &mut Suite) -> Result<()> {
    let (rows, width) = (suite.size.rows, suite.size.width);
    let shape: &[usize] = &[rows, width];
    let [one, two] = [&[(Activation, shape)][..], &[(Activation, shape), (Activation, shape)]];
    suite.agree("rms_norm", &[(Activation, shape), (Trained, &[width])], |_, t| rms_norm(&t[0], &t[1], 1e-5))?;
    suite.agree("residual and rms_norm", &[two[0], two[1], (Trained, &[width])], |_, t| {
        rms_norm(&residual(&t[0], swiglu(&t[1], &t[1])?)?, &t[2], 1e-5)
    })?;
    let frequencies: Vec<f64> = (0..16).map(|i| 0.7f64.powi(i)).collect();
    let (positions, table) =
        ((0..rows as u32).map(|i| i * 7 % 101).collect::<Vec<_>>(), RopeTable::new(&frequencies, 101));
    suite.agree("rope", one, |device, t| {
        rope(&t[0], &Arc::new(positions.clone().into()), &Arc::new(table.to_device(device)?))
    })?;
    suite.agree("swiglu", two, |_, t| swiglu(&t[0], &t[1]))?;
    for row in [const { &Pointwise::ADD }, const { &Pointwise::SUB }, const { &Pointwise::MUL }] {
        suite.agree(row.name, two, |_, t| pointwise(row, &t[0], &t[1]))?;
    }
    let mask = mask()?;
    suite.agree("dropout", one, |_, t| dropout(&t[0], mask))
}

/// A frozen weight (out, in) as it is stored.
fn stored(
    suite: &Suite,
    dtype: DType,
    shape: &[usize],
) -> impl Fn(Device) -> dora_tensor::Result<Arc<dyn Weight>> + use<> {
    let matrix = suite.normal(50, shape).to_dtype(dtype);
    move |device| Ok(Arc::new(DenseWeight::new(matrix.to_device(device)?)?) as Arc<dyn Weight>)
}

/// A frozen weight in 4 bits.
fn quantized(
    suite: &Suite,
    double_quant: bool,
    shape: &[usize],
) -> impl Fn(Device) -> dora_tensor::Result<Arc<dyn Weight>> + use<> {
    let matrix = suite.normal(50, shape);
    move |device| Nf4Weight::quantize(&matrix, Nf4Options { block_size: 64, double_quant })?.on(device)
}

/// Linear layers over every precision, LoRA and DoRA.
fn products(suite: &mut Suite) -> Result<()> {
    let (rows, inner) = (suite.size.rows, suite.size.width);
    let out = inner + 24;
    let (x, bias): ((_, &[usize]), (_, &[usize])) = ((Activation, &[rows, inner]), (Trained, &[out]));
    suite.agree("linear, trained", &[x, (Trained, &[out, inner]), bias], |_, t| {
        linear(&t[0], &Matrix::Trained(t[1].clone()), Some(&t[2]))
    })?;
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let weight = stored(suite, dtype, &[out, inner]);
        suite.agree(&format!("linear over {dtype}"), &[x, bias], |device, t| {
            linear(&t[0], &Matrix::Frozen(weight(device)?), Some(&t[1]))
        })?;
    }
    for (rows, name) in [(1, "one row"), (16, "16 rows"), (rows, "many rows")] {
        for double_quant in [true, false] {
            let weight = quantized(suite, double_quant, &[out, inner]);
            let nested = if double_quant { "nested" } else { "plain" };
            suite.agree(
                &format!("linear over nf4, {nested}, {name}"),
                &[(Activation, &[rows, inner])],
                |device, t| linear(&t[0], &Matrix::Frozen(weight(device)?), None),
            )?;
        }
    }
    let trained: [(_, &[usize]); 3] = [(Trained, &[RANK, inner]), (Trained, &[out, RANK]), (Magnitude, &[out])];
    for (name, dropout) in [("", None), (", dropout", Some(mask()?))] {
        let update = |t: &[Tensor]| LowRank { a: t[1].clone(), b: t[2].clone(), scaling: SCALING, dropout };
        let weight = quantized(suite, true, &[out, inner]);
        suite.agree(&format!("lora{name}"), &[x, trained[0], trained[1], bias], |device, t| {
            lora_linear(&t[0], &weight(device)?, Some(&t[3]), &update(t))
        })?;
        let weight = stored(suite, DType::BF16, &[out, inner]);
        suite.agree(&format!("dora{name}"), &[x, trained[0], trained[1], trained[2], bias], |device, t| {
            let (weight, update) = (weight(device)?, update(t));
            let base = weight.row_norms_squared()?;
            let norms = dora_norms(&weight, &update, &base)?;
            Ok(dora_linear(&t[0], &weight, Some(&t[4]), &update, &t[3], Norms::Known(&norms))?.0)
        })?;
    }
    Ok(())
}

/// Attention of several documents for every width of heads, and of a token behind others.
fn attentions(suite: &mut Suite) -> Result<()> {
    let rows = suite.size.rows;
    for head_dim in [16, 32, 64, 128] {
        let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim };
        let (wide, narrow) = (4 * head_dim, 2 * head_dim);
        let inputs: [(_, &[usize]); 3] =
            [(Activation, &[rows, wide]), (Activation, &[rows, narrow]), (Activation, &[rows, narrow])];
        suite.agree(&format!("attention, heads of {head_dim}"), &inputs, |_, t| {
            let documents = Arc::new(Documents::new(&[rows - 6, 5, 1]));
            attention(&t[0], &t[1], &t[2], &documents, shape, shape.scale())
        })?;
        let drawn = [wide, narrow, narrow].map(|width| suite.normal(width as u64, &[rows, width]));
        let run = |device: Device| -> Result<Vec<f32>> {
            let on = |x: &Tensor| match device {
                Device::Cpu => Ok(suite.rounded(x)),
                Device::Cuda(gpu) => x.to_dtype(gpu.activations()).to_device(device),
            };
            let (q, k, v) = (on(&drawn[0])?.rows(rows - 1, 1)?, on(&drawn[1])?, on(&drawn[2])?);
            let last = Documents::continued(rows - 1, 1);
            host(&no_grad(|| attention_cached(&q, &k, &v, &last, shape, shape.scale()))?)
        };
        let error = difference(&run(Device::Cuda(suite.gpu))?, &run(Device::Cpu)?);
        suite.push(&format!("attention of one token, heads of {head_dim}"), error, suite.tolerance);
    }
    Ok(())
}

/// Tables of every type, and cross-entropy.
fn tables(suite: &mut Suite) -> Result<()> {
    let (rows, width, vocab) = (suite.size.rows, suite.size.width, suite.size.vocab);
    let ids: Vec<u32> = (0..rows as u32).map(|i| i * i % vocab as u32).collect();
    suite.agree("embedding", &[(Trained, &[vocab, width])], |_, t| embedding(&ids, &t[0]))?;
    for dtype in [DType::BF16, DType::F16] {
        let table = suite.normal(1, &[vocab, width]).to_dtype(dtype);
        let on = |device| -> Result<_> { host(&embedding(&ids, &table.to_device(device)?)?) };
        let error = difference(&on(Device::Cuda(suite.gpu))?, &on(Device::Cpu)?);
        suite.push(&format!("embedding from {dtype}"), error, suite.tolerance);
    }
    let targets: Vec<i32> = (0..rows as i32).map(|i| if i % 3 == 0 { -100 } else { i * 31 % vocab as i32 }).collect();
    let hidden: (_, &[usize]) = (Hidden, &[rows, width]);
    suite.agree("index_select", &[hidden], |_, t| {
        index_select(&t[0], &Arc::new(RowIds::new((0..rows as u32).step_by(3).collect())?))
    })?;
    suite.agree("cross_entropy, trained head", &[hidden, (Trained, &[vocab, width])], |_, t| {
        cross_entropy(&t[0], &Matrix::Trained(t[1].clone()), &targets, 31.0)
    })?;
    let head = stored(suite, DType::BF16, &[vocab, width]);
    suite.agree("cross_entropy, frozen head", &[hidden], |device, t| {
        cross_entropy(&t[0], &Matrix::Frozen(head(device)?), &targets, 31.0)
    })?;
    let x = suite.normal(2, &[rows, width]).to_dtype(suite.gpu.activations());
    let at = [(0, 5), (rows - 1, vocab - 1)];
    let found =
        losses_at(&x.to_device(Device::Cuda(suite.gpu))?, &Matrix::Frozen(head(Device::Cuda(suite.gpu))?), &at)?;
    let expected = losses_at(&x.to_dtype(DType::F32), &Matrix::Frozen(head(Device::Cpu)?), &at)?;
    suite.push("losses of single tokens", difference(&found, &expected), suite.tolerance);
    Ok(())
}

/// What is done once for a weight: norms of rows, of rows that cancel and of zero rows, and merging.
fn weights(suite: &mut Suite) -> Result<()> {
    let inner = suite.size.width;
    let out = inner + 24;
    let tolerance = if suite.gpu.activations() == DType::F32 { suite.tolerance } else { 5e-3 };
    let matrix = suite.normal(50, &[out, inner]).to_dtype(DType::BF16);
    let run = |device: Device| -> Result<[Vec<f32>; 3]> {
        let on = |stream, shape: &[usize]| suite.normal(stream, shape).to_device(device);
        let weight: Arc<dyn Weight> = Arc::new(DenseWeight::new(matrix.to_device(device)?)?);
        let update = LowRank { a: on(1, &[RANK, inner])?, b: on(2, &[out, RANK])?, scaling: SCALING, dropout: None };
        let base = weight.row_norms_squared()?;
        let norms = dora_norms(&weight, &update, &base)?;
        let merged = merged(&*weight, &update, Some(&on(3, &[out])?))?;
        Ok([host(&base)?, host(&norms)?, host(&merged)?])
    };
    let (found, expected) = (run(Device::Cuda(suite.gpu))?, run(Device::Cpu)?);
    for (name, (found, expected)) in
        ["row norms", "dora norms", "merged weight"].iter().zip(found.iter().zip(&expected))
    {
        suite.push(name, difference(found, expected), tolerance);
    }
    Ok(())
}

/// Three steps of AdamW with clipping.
fn updates(suite: &mut Suite) -> Result<()> {
    let shape = [suite.size.rows, suite.size.width];
    let run = |device: Device| -> Result<[Vec<f32>; 2]> {
        let on = |stream| suite.normal(stream, &shape).to_device(device);
        let parameter = Parameter::new("p", Role::Matrix, on(1)?)?;
        let mut moments = Moments::new(&parameter)?;
        let mut norms = Vec::new();
        for step in 1..=3 {
            let gradient = on(1 + step)?;
            let clip = Clip::new(&[], std::slice::from_ref(&gradient), 1.5)?;
            let adamw = AdamW { lr: 0.01, weight_decay: 0.1, betas: [0.9, 0.999], eps: 1e-8, step };
            adamw.update(&parameter, &gradient, &mut moments, &clip)?;
            norms.push(clip.figures()?.norm as f32);
        }
        Ok([host(&parameter.value())?, norms])
    };
    let (found, expected) = (run(Device::Cuda(suite.gpu))?, run(Device::Cpu)?);
    for (name, (found, expected)) in ["adamw", "norms of gradients"].iter().zip(found.iter().zip(&expected)) {
        suite.push(name, difference(found, expected), 2e-6);
    }
    Ok(())
}
