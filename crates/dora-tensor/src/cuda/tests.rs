//! Every operation on the host driver against its body on the CPU: values and gradients, in f32 and in bf16, at odd sizes.

use super::Cuda;
use crate::gradcheck::{Input, compare};
use crate::ops::{
    AdamW, AttentionShape, Clip, Documents, Dropout, Figures, LowRank, Matrix, Moments, Norms, Pointwise, RopeTable,
    RowIds, attention, attention_cached, cross_entropy, cross_entropy_in_chunks, dora_linear, dora_norms, dropout,
    embedding, index_select, linear, lora_linear, losses_at, merged, pointwise, residual, rms_norm, rope, swiglu,
};
use crate::rng::Stream;
use crate::tape::{Edge, GradientSlot};
use crate::{
    DType, DenseWeight, Device, Nf4Options, Nf4Weight, Parameter, Result, Role, Tensor, Weight, checkpoint, no_grad,
};
use dora_kernels::host::HostDriver;
use dora_kernels::launch::dora_backward_projects;
use std::sync::{Arc, LazyLock};

/// Devices with activations of f32 and bf16, and the error allowed on each, relative to the largest element.
static DEVICES: LazyLock<[(Cuda, f64); 2]> = LazyLock::new(|| {
    let device = |dtype| {
        let driver = Arc::new(HostDriver::new(1).expect("a C++ compiler is on this machine"));
        Cuda::new(format!("host ({dtype})"), driver, dtype)
    };
    [(device(DType::F32), 2e-5), (device(DType::BF16), 2e-2)]
});

/// What an input is, which decides its type on a device.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Activation,
    Parameter,
}
use Kind::{Activation, Parameter as Trained};

fn normal(stream: u64, shape: &[usize]) -> Input {
    Input::normal(77, stream, shape)
}

/// Holds value and gradients of `f` on every device to those on the CPU. The CPU sees activations as they are once rounded.
fn agree(what: &str, inputs: &[(Kind, Input)], f: impl Fn(Device, &[Tensor]) -> Result<Tensor>) {
    for &(gpu, tolerance) in DEVICES.iter() {
        let run = |device: Device| {
            let slots: Vec<Arc<GradientSlot>> = inputs.iter().map(|_| Arc::default()).collect();
            let leaf = |((kind, input), slot): (&(Kind, Input), &Arc<GradientSlot>)| {
                let dtype = if *kind == Activation { gpu.activations() } else { DType::F32 };
                let rounded = input.tensor().to_dtype(dtype);
                let tensor = if device == Device::Cpu { rounded.to_dtype(DType::F32) } else { rounded };
                tensor.to_device(device).unwrap().with_origin(Some(Edge::Leaf(slot.clone())))
            };
            let leaves: Vec<Tensor> = inputs.iter().zip(&slots).map(leaf).collect();
            let y = f(device, &leaves).unwrap_or_else(|e| panic!("{what} on {device}: {e}"));
            let dtype = if device == Device::Cpu { DType::F32 } else { y.dtype() };
            let dy = normal(99, y.shape()).tensor().to_dtype(gpu.activations()).to_dtype(dtype);
            y.backward_from(dy.to_device(device).unwrap()).unwrap_or_else(|e| panic!("{what} on {device}: {e}"));
            let gradient = |slot: &Arc<GradientSlot>| {
                let gradient = slot.0.lock().unwrap().take();
                gradient.unwrap_or_else(|| panic!("{what} on {device}: an input has no gradient"))
            };
            (y.detach(), slots.iter().map(gradient).collect::<Vec<_>>())
        };
        let (y, gradients) = run(Device::Cuda(gpu));
        let (want_y, want) = run(Device::Cpu);
        let close = |part: &str, found: &Tensor, want: &Tensor| {
            assert_eq!(found.device(), Device::Cuda(gpu), "{what} {part}");
            compare(&format!("{what} {part} on {gpu:?}"), &host(found), &wide(want), tolerance);
        };
        close("output", &y, &want_y);
        for (i, (found, want)) in gradients.iter().zip(&want).enumerate() {
            assert_eq!(found.dtype(), if inputs[i].0 == Trained { DType::F32 } else { gpu.activations() });
            close(&format!("gradient {i}"), found, want);
        }
    }
}

fn host(tensor: &Tensor) -> Vec<f32> {
    tensor.to_device(Device::Cpu).unwrap().to_vec()
}

fn wide(tensor: &Tensor) -> Vec<f64> {
    host(tensor).into_iter().map(f64::from).collect()
}

fn dense(device: Device, stored: &Tensor) -> Arc<dyn Weight> {
    Arc::new(DenseWeight::new(stored.to_device(device).unwrap()).unwrap())
}

/// Weights (out, in) of every precision, on a device.
fn weights(device: Device, (out, inner): (usize, usize)) -> Vec<Arc<dyn Weight>> {
    let matrix = normal(50, &[out, inner]).tensor();
    let stored = [DType::F32, DType::BF16, DType::F16].map(|dtype| dense(device, &matrix.to_dtype(dtype)));
    let nf4 = [true, false].map(|double_quant| {
        let options = Nf4Options { block_size: 64, double_quant };
        Nf4Weight::quantize(&matrix, options).unwrap().on(device).unwrap()
    });
    stored.into_iter().chain(nf4).collect()
}

/// (n, in, out).
const SIZES: [(usize, usize, usize); 3] = [(1, 3, 2), (5, 37, 19), (67, 40, 24)];

#[test]
fn linear_layers_agree() {
    for (n, inner, out) in SIZES {
        let (x, b) = ((Activation, normal(0, &[n, inner])), (Trained, normal(2, &[out])));
        let inputs = [x.clone(), (Trained, normal(1, &[out, inner])), b.clone()];
        agree("linear", &inputs, |_, t| linear(&t[0], &Matrix::Trained(t[1].clone()), Some(&t[2])));
        for which in 0..5 {
            agree(&format!("linear over weight {which}"), &[x.clone(), b.clone()], |device, t| {
                linear(&t[0], &Matrix::Frozen(weights(device, (out, inner))[which].clone()), Some(&t[1]))
            });
        }
    }
}

fn masks() -> [Option<Dropout>; 2] {
    [None, Some(Dropout::new(0.25, Stream { seed: 1 << 40 | 3, step: 5, op: 2 }).unwrap())]
}

#[test]
fn low_rank_updates_agree() {
    for (n, inner, out) in SIZES {
        for (dropout, rank) in masks().into_iter().zip([3, 8]) {
            let inputs = [
                (Activation, normal(0, &[n, inner])),
                (Trained, normal(1, &[rank, inner])),
                (Trained, normal(2, &[out, rank])),
                (Trained, normal(3, &[out])),
            ];
            agree("lora", &inputs, |device, t| {
                let update = LowRank { a: t[1].clone(), b: t[2].clone(), scaling: 0.5, dropout };
                lora_linear(&t[0], &weights(device, (out, inner))[3], Some(&t[3]), &update)
            });
        }
    }
}

/// With a row of W + sBA that is zero (W's row is, and B's), and one whose magnitude vanishes.
#[test]
fn dora_agrees() {
    // Of the last so many rows that the pass over dy gives dh as well.
    for (n, inner, out) in SIZES.into_iter().chain([(520, 16, 24)]) {
        for (dropout, rank) in masks().into_iter().zip([3, 8]) {
            assert_eq!(dora_backward_projects(n, rank), n == 520);
            let zero = |stream, width: usize| {
                let mut v = normal(stream, &[out, width]).tensor().to_vec();
                v[..width].fill(0.0);
                v
            };
            let mut m: Vec<f32> = normal(4, &[out]).tensor().to_vec();
            m[out - 1] = 0.0;
            let b = Input::new(&[out, rank], zero(2, rank));
            let inputs = [
                (Activation, normal(0, &[n, inner])),
                (Trained, normal(1, &[rank, inner])),
                (Trained, b),
                (Trained, Input::new(&[out], m)),
                (Trained, normal(3, &[out])),
            ];
            let w = Tensor::of(zero(50, inner), &[out, inner]).to_dtype(DType::BF16);
            for known in [false, true] {
                agree("dora", &inputs, |device, t| {
                    let update = LowRank { a: t[1].clone(), b: t[2].clone(), scaling: 0.5, dropout };
                    let weight = dense(device, &w);
                    let base = weight.row_norms_squared()?;
                    let n = dora_norms(&weight, &update, &base)?;
                    let norms = if known { Norms::Known(&n) } else { Norms::From(&base) };
                    Ok(dora_linear(&t[0], &weight, Some(&t[4]), &update, &t[3], norms)?.0)
                });
            }
        }
    }
}

/// Of a row of W + sBA that is zero, y is the bias, which bf16 rounds: what is left of y − b, over m, would not be 0.
#[test]
fn the_magnitude_of_a_zero_row_has_a_gradient_of_zero() {
    let (n, inner, out, rank) = (67, 40, 24, 8);
    for &(gpu, _) in DEVICES.iter() {
        let on = |t: Tensor| t.to_device(Device::Cuda(gpu)).unwrap();
        let drawn = |stream, shape: &[usize]| normal(stream, shape).tensor();
        let first_row_zero = |stream, width: usize| {
            let mut v = drawn(stream, &[out, width]).to_vec();
            v[..width].fill(0.0);
            Tensor::of(v, &[out, width])
        };
        let weight = dense(Device::Cuda(gpu), &first_row_zero(50, inner).to_dtype(DType::BF16));
        let base = weight.row_norms_squared().unwrap();
        let [x, dy] = [(0, inner), (5, out)].map(|(s, width)| on(drawn(s, &[n, width]).to_dtype(gpu.activations())));
        for dropout in masks() {
            let (a, b) = (on(drawn(1, &[rank, inner])), on(first_row_zero(2, rank)));
            let update = LowRank { a, b, scaling: 0.5, dropout };
            let m = Parameter::new("m", Role::Magnitude, on(drawn(3, &[out]))).unwrap();
            let bias = on(drawn(4, &[out]));
            let (y, norms) = dora_linear(&x, &weight, Some(&bias), &update, &m.tensor(), Norms::From(&base)).unwrap();
            y.backward_from(dy.clone()).unwrap();
            let dm = host(&m.take_gradient().unwrap());
            assert_eq!((host(&norms)[0], dm[0]), (0.0, 0.0), "{gpu:?}");
            assert!(dm[1..].iter().all(|dm| dm.is_finite() && *dm != 0.0), "{gpu:?}: {dm:?}");
        }
    }
}

/// With dropout a pass multiplies two inputs by W, and both products read one widened copy.
#[test]
fn a_weight_in_4_bits_is_widened_once_a_pass() {
    let (n, inner, out, rank) = (67, 40, 24, 8);
    let driver = Arc::new(HostDriver::new(1).unwrap());
    let gpu = Cuda::new("counted".into(), driver.clone(), DType::BF16);
    let widened = || driver.counters().get("nf4_dequantize_bf16").map_or(0, |(launches, _)| *launches);
    let on = |stream, shape: &[usize]| normal(stream, shape).tensor().to_device(Device::Cuda(gpu)).unwrap();
    let weight = weights(Device::Cuda(gpu), (out, inner))[3].clone();
    let base = weight.row_norms_squared().unwrap();
    for dropout in masks() {
        let m = Parameter::new("m", Role::Magnitude, on(3, &[out])).unwrap();
        let update = LowRank { a: on(1, &[rank, inner]), b: on(2, &[out, rank]), scaling: 0.5, dropout };
        let n_ = dora_norms(&weight, &update, &base).unwrap();
        let x = on(0, &[n, inner]).cast(DType::BF16).unwrap();
        for norms in [Norms::Known(&n_), Norms::From(&base)] {
            let before = widened();
            let (y, _) = dora_linear(&x, &weight, None, &update, &m.tensor(), norms).unwrap();
            assert_eq!(widened() - before, 1, "forward, {norms:?}");
            y.backward_from(y.detach()).unwrap();
            assert_eq!(widened() - before, 2, "backward, {norms:?}");
        }
    }
}

#[test]
fn merged_weights_agree() {
    let (inner, out, rank) = (37, 19, 3);
    for &(gpu, _) in DEVICES.iter() {
        let merge = |device: Device, with_m: bool, which: usize| {
            let on = |stream, shape: &[usize]| normal(stream, shape).tensor().to_device(device).unwrap();
            let update = LowRank { a: on(1, &[rank, inner]), b: on(2, &[out, rank]), scaling: 0.5, dropout: None };
            let m = with_m.then(|| on(3, &[out]));
            host(&merged(&*weights(device, (out, inner))[which], &update, m.as_ref()).unwrap())
        };
        for which in 0..5 {
            for with_m in [false, true] {
                let want: Vec<f64> = merge(Device::Cpu, with_m, which).into_iter().map(f64::from).collect();
                compare("merged", &merge(Device::Cuda(gpu), with_m, which), &want, 2e-6);
            }
        }
    }
}

#[test]
fn norms_positions_and_gates_agree() {
    for (n, width) in [(1, 8), (67, 24), (5, 40)] {
        let x = (Activation, normal(0, &[n, width]));
        agree("rms_norm", &[x.clone(), (Trained, normal(1, &[width]))], |_, t| rms_norm(&t[0], &t[1], 1e-5));
        let positions: Vec<u32> = (0..n as u32).map(|i| i * 7 % 11).collect();
        let table = RopeTable::new(&[1.0, 0.3, 0.1, 0.02], 11);
        agree("rope", std::slice::from_ref(&x), |device, t| {
            rope(&t[0], &Arc::new(positions.clone().into()), &Arc::new(table.to_device(device)?))
        });
        let two = [x.clone(), (Activation, normal(1, &[n, width]))];
        agree("swiglu", &two, |_, t| swiglu(&t[0], &t[1]));
        agree("residual", &two, |_, t| residual(&t[0], swiglu(&t[1], &t[1])?));
        for row in [const { &Pointwise::ADD }, const { &Pointwise::SUB }, const { &Pointwise::MUL }] {
            agree(row.name, &two, |_, t| pointwise(row, &t[0], &t[1]));
        }
        agree("dropout", &[x], |_, t| dropout(&t[0], masks()[1].unwrap()));
    }
}

#[test]
fn attention_agrees() {
    let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 16 };
    let lengths = [5, 1, 70];
    let inputs = [64, 32, 32].map(|width| (Activation, normal(width as u64, &[76, width])));
    agree("attention", &inputs, |_, t| {
        attention(&t[0], &t[1], &t[2], &Arc::new(Documents::new(&lengths)), shape, shape.scale())
    });
    for &(gpu, tolerance) in DEVICES.iter() {
        for n in [1, 3, 76] {
            let run = |device: Device| {
                let dtype = if device == Device::Cpu { DType::F32 } else { gpu.activations() };
                let on = |(_, input): &(Kind, Input)| {
                    input.tensor().to_dtype(gpu.activations()).to_dtype(DType::F32).to_dtype(dtype).to_device(device)
                };
                let [q, k, v] = [0, 1, 2].map(|i| on(&inputs[i]).unwrap());
                let document = Documents::continued(76 - n, n);
                let q = q.rows(76 - n, n).unwrap();
                attention_cached(&q, &k, &v, &document, shape, shape.scale()).unwrap()
            };
            compare("cached", &host(&run(Device::Cuda(gpu))), &wide(&run(Device::Cpu)), tolerance);
        }
    }
}

#[test]
fn heads_without_kernels_are_refused() {
    let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 24 };
    for (&(gpu, _), dims) in DEVICES.iter().zip(["[4, 8, 16, 32, 64, 128]", "[16, 32, 64, 128]"]) {
        assert_eq!(format!("{:?}", AttentionShape::head_dims(Device::Cuda(gpu)).unwrap()), dims);
        let x = Tensor::zeros_on(Device::Cuda(gpu), &[1, 96]).unwrap();
        let k = Tensor::zeros_on(Device::Cuda(gpu), &[1, 48]).unwrap();
        let error = attention(&x, &k, &k, &Arc::new(Documents::new(&[1])), shape, 1.0).unwrap_err().to_string();
        let elements = gpu.activations();
        assert_eq!(error, format!("attention: heads of 24 {elements} elements, expected one of {dims}"));
    }
    assert_eq!(AttentionShape::head_dims(Device::Cpu), None);
}

#[test]
fn embeddings_and_losses_agree() {
    let (n, vocab, width) = (67, 101, 24);
    let ids: Vec<u32> = (0..n as u32).map(|i| i * i % 13).collect();
    agree("embedding", &[(Trained, normal(0, &[vocab, width]))], |_, t| embedding(&ids, &t[0]));
    let targets: Vec<i32> = (0..n as i32).map(|i| if i % 3 == 0 { -100 } else { i * i % 101 }).collect();
    let hidden = (Activation, normal(1, &[n, width]));
    for picked in [vec![0, 1, 7, 40, 66], vec![33], (0..67).collect()] {
        agree("index_select", std::slice::from_ref(&hidden), |_, t| {
            index_select(&t[0], &Arc::new(RowIds::new(picked.clone())?))
        });
    }
    let trained = [hidden.clone(), (Trained, normal(2, &[vocab, width]))];
    agree("cross_entropy", &trained, |_, t| cross_entropy(&t[0], &Matrix::Trained(t[1].clone()), &targets, 31.0));
    let table = normal(2, &[vocab, width]).tensor().to_dtype(DType::BF16);
    let head = |device: Device| Matrix::Frozen(dense(device, &table));
    agree("cross_entropy, frozen", std::slice::from_ref(&hidden), |device, t| {
        cross_entropy(&t[0], &head(device), &targets, 31.0)
    });
    // 44 labelled rows in 22 chunks, in 3 of which the last is shorter, and in 2; the CPU takes them at once.
    for rows in [2, 15, 22] {
        let most = |device| if device == Device::Cpu { usize::MAX } else { rows * vocab };
        agree(&format!("cross_entropy, {rows} rows a chunk"), &trained, |device, t| {
            cross_entropy_in_chunks(most(device), &t[0], &Matrix::Trained(t[1].clone()), &targets, 31.0)
        });
    }
    let at = [(3, 5), (3, 100), (66, 0)];
    for &(gpu, tolerance) in DEVICES.iter() {
        let rounded = hidden.1.tensor().to_dtype(gpu.activations());
        let found = losses_at(&rounded.to_device(Device::Cuda(gpu)).unwrap(), &head(Device::Cuda(gpu)), &at).unwrap();
        let want = losses_at(&rounded.to_dtype(DType::F32), &head(Device::Cpu), &at).unwrap();
        let want: Vec<f64> = want.into_iter().map(f64::from).collect();
        compare("losses", &found, &want, tolerance);
    }
}

#[test]
fn a_recomputed_block_gives_the_very_same_gradients() {
    for &(gpu, _) in DEVICES.iter() {
        let on = |stream, shape: &[usize]| normal(stream, shape).tensor().to_device(Device::Cuda(gpu)).unwrap();
        let x = on(0, &[7, 8]).cast(gpu.activations()).unwrap();
        let run = |recompute: bool| {
            let w = Parameter::new("w", Role::Matrix, on(1, &[8, 8])).unwrap();
            let inner = w.clone();
            let block = move |x: &Tensor| {
                let y = linear(x, &Matrix::Trained(inner.tensor()), None)?;
                residual(x, swiglu(&y, &y)?)
            };
            let y = if recompute { checkpoint(&x, true, block) } else { block(&x) }.unwrap();
            y.backward_from(x.clone()).unwrap();
            (host(&y), host(&w.take_gradient().unwrap()))
        };
        assert_eq!(run(true), run(false));
    }
}

#[test]
fn updates_agree_and_what_is_not_finite_changes_nothing() {
    let shapes: [&[usize]; 3] = [&[3, 7], &[1], &[40, 501]];
    for &(gpu, _) in DEVICES.iter() {
        let run = |device: Device, most: f64| {
            let on = |stream, shape: &[usize]| normal(stream, shape).tensor().to_device(device).unwrap();
            let parameters = shapes.map(|shape| Parameter::new("p", Role::Matrix, on(1, shape)).unwrap());
            let mut moments = parameters.each_ref().map(|p| Moments::new(p).unwrap());
            let mut norms = Vec::new();
            for step in 1..=3 {
                let gradients = shapes.map(|shape| on(step + 1, shape));
                let losses = [0.25, 1.5].map(|loss| Tensor::scalar(loss).to_device(device).unwrap());
                let clip = Clip::new(&losses, &gradients, most).unwrap();
                let adamw = AdamW { lr: 0.01, weight_decay: 0.1, betas: [0.9, 0.999], eps: 1e-8, step };
                for ((p, g), m) in parameters.iter().zip(&gradients).zip(&mut moments) {
                    adamw.update(p, g, m, &clip).unwrap();
                }
                let Figures { loss, norm } = clip.figures().unwrap();
                assert_eq!(loss, 1.75);
                norms.push(norm as f32);
            }
            let good = parameters.each_ref().map(|p| host(&p.value()));
            let state = |moments: &Moments| [&parameters[2].value(), &moments.first, &moments.second].map(host);
            let before = state(&moments[2]);
            let on = |t: Tensor| t.to_device(device).unwrap();
            let sound = normal(9, shapes[2]).tensor();
            let mut spoilt = sound.to_vec();
            spoilt[20_039] = f32::INFINITY;
            let spoilt = Tensor::of(spoilt, shapes[2]);
            for (losses, gradient) in [
                (vec![], spoilt.clone()),
                (vec![1.0], spoilt),
                (vec![2.0, f32::INFINITY], sound.clone()),
                (vec![f32::NAN], sound),
            ] {
                let losses: Vec<Tensor> = losses.into_iter().map(|loss| on(Tensor::scalar(loss))).collect();
                let gradient = on(gradient);
                let clip = Clip::new(&losses, std::slice::from_ref(&gradient), most).unwrap();
                let adamw = AdamW { lr: 0.01, weight_decay: 0.1, betas: [0.9, 0.999], eps: 1e-8, step: 4 };
                adamw.update(&parameters[2], &gradient, &mut moments[2], &clip).unwrap();
                let Figures { loss, norm } = clip.figures().unwrap();
                assert!(!loss.is_finite() || !norm.is_finite());
                assert!(state(&moments[2]) == before, "loss {loss}, norm {norm}: something changed on {device}");
            }
            good.concat().into_iter().chain(norms).collect::<Vec<f32>>()
        };
        for most in [0.0, 1.5] {
            let want: Vec<f64> = run(Device::Cpu, most).into_iter().map(f64::from).collect();
            compare("parameters", &run(Device::Cuda(gpu), most), &want, 2e-6);
        }
    }
}

/// Gradients whose norm, 5e38, only f64 holds: the step is made, clipped, as on the CPU.
#[test]
fn a_norm_beyond_f32_is_clipped() {
    let devices = DEVICES.iter().map(|&(gpu, _)| Device::Cuda(gpu)).chain([Device::Cpu]);
    for device in devices {
        let on = |values: Vec<f32>| Tensor::of(values, &[3]).to_device(device).unwrap();
        let p = Parameter::new("p", Role::Matrix, on(vec![1.0; 3])).unwrap();
        let mut moments = Moments::new(&p).unwrap();
        let gradient = on(vec![3e38, -3e38, 3e38]);
        let clip = Clip::new(&[], std::slice::from_ref(&gradient), 1.0).unwrap();
        let adamw = AdamW { lr: 0.5, weight_decay: 0.0, betas: [0.9, 0.999], eps: 1e-8, step: 1 };
        adamw.update(&p, &gradient, &mut moments, &clip).unwrap();
        let norm = clip.figures().unwrap().norm;
        assert!((norm / 3f64.sqrt() / 3e38 - 1.0).abs() < 1e-6, "{norm} on {device}");
        compare("p", &host(&p.value()), &[0.5, 1.5, 0.5], 1e-6);
    }
}

#[test]
fn elements_are_shared_until_somebody_writes() {
    for &(gpu, _) in DEVICES.iter() {
        let on = |t: Tensor| t.to_dtype(gpu.activations()).to_device(Device::Cuda(gpu)).unwrap();
        let mut cache = Tensor::zeros_on(Device::Cuda(gpu), &[3, 2]).unwrap();
        let row = on(Tensor::of(vec![1.0, 2.0], &[1, 2]));
        cache.write_rows(1, &row).unwrap();
        let view = cache.rows(1, 1).unwrap();
        cache.write_rows(2, &row).unwrap();
        cache.write_rows(1, &on(Tensor::zeros(&[1, 2]))).unwrap();
        assert_eq!((host(&view), host(&cache)), (vec![1.0, 2.0], vec![0.0, 0.0, 0.0, 0.0, 1.0, 2.0]));
        let error = no_grad(|| swiglu(&row, &Tensor::zeros(&[1, 2]))).unwrap_err().to_string();
        assert_eq!(error, format!("swiglu: an operand lies on cpu, expected {}", gpu.name()));
        let error = no_grad(|| swiglu(&Tensor::zeros(&[1, 2]), &row)).unwrap_err().to_string();
        assert_eq!(error, format!("swiglu: an operand lies on {}, expected cpu", gpu.name()));
    }
}
