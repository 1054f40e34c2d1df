//! How fine-tuning changed each linear layer's magnitude and direction (DoRA paper, arXiv 2402.09353, §3.2). With w a row of
//! the base's W (out, in) and w' of the tuned one, over a layer's **output rows**:
//!
//! ΔM = mean |‖w'‖ − ‖w‖|,  ΔD = mean (1 − cos(w', w)).
//!
//! The tuned row is w + d with d = s·b·A for LoRA, m/‖w + d‖ times that for DoRA, and read from a checkpoint otherwise. Both
//! means are computed from Σw², Σw·d and Σd² in f64, without subtracting what is nearly equal:
//! ‖w + d‖ − ‖w‖ = (2w·d + d²)/(‖w + d‖ + ‖w‖), and 1 − cos = sin²/(1 + cos) with sin² = (w²d² − (w·d)²)/(w²‖w + d‖²).
//! A row that is zero before or after has no direction, and takes no part in ΔD.
//!
//! Layers go one by one and rows by tiles; one layer is dense at a time, and only where the base is in 4 bits.

use crate::error::{Error, Result};
use crate::factors::Factors;
use crate::targets::Target;
use dora_models::checkpoint::Checkpoint;
use dora_models::nf4::{self, WeightOptions};
use dora_models::shape::{LinearShape, ModelShape};
use dora_tensor::cpu::map_blocks;
use dora_tensor::{DenseWeight, Device, Nf4Options, Tensor, Weight};
use std::path::Path;

/// Elements of a tile, at most (but for a single row): 4 MiB.
const TILE: usize = 1 << 20;

/// What was trained from the base.
pub enum Tuned<'a> {
    /// An adapter's layers.
    Adapter(&'a [(Target, Factors)]),
    /// All weights, in this folder.
    Weights(&'a Path),
}

/// The change of a linear layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerChange {
    /// The layer.
    pub path: String,
    /// ΔM.
    pub magnitude: f64,
    /// ΔD.
    pub direction: f64,
    /// Rows that are zero before or after.
    pub zero_rows: usize,
}

/// The change of every layer that was trained, in the model's order. The base is what the folder holds, or what its linear
/// layers in 4 bits stand for where `nf4` says that it was trained over those.
pub fn analyze(base: &Path, shape: &ModelShape, tuned: &Tuned, nf4: Option<Nf4Options>) -> Result<Vec<LayerChange>> {
    let checkpoint = Checkpoint::open(base)?;
    match tuned {
        Tuned::Adapter(layers) => {
            let of = |(target, factors): &(Target, Factors)| {
                let update = Update::of(target, factors)?;
                change(&checkpoint, &target.linear, nf4, |rows, _| update.rows(rows))
            };
            layers.iter().map(of).collect()
        }
        Tuned::Weights(dir) => {
            let other = Checkpoint::open(dir)?;
            let of = |linear: &LinearShape| {
                let name = name(linear);
                if nf4::is_quantized(&other, &name) {
                    return Err(Error::TunedQuantized { path: other.path().to_owned(), tensor: name });
                }
                let tuned = other.expect(&name, &[linear.out_features, linear.in_features])?;
                let changed = change(&checkpoint, linear, nf4, |rows, base| {
                    let mut tile = tuned.rows(rows.start, rows.len())?.to_vec();
                    check_finite(&tile, &other, &name)?;
                    tile.iter_mut().zip(base).for_each(|(w, base)| *w -= base);
                    Ok((tile, None))
                })?;
                other.release(&name)?;
                Ok(changed)
            };
            shape.linears.iter().filter(|linear| !linear.output_embedding).map(of).collect()
        }
    }
}

/// An adapter's update, a few rows at a time.
struct Update {
    a: DenseWeight,
    b: Tensor,
    magnitude: Option<Vec<f32>>,
    scaling: f32,
}

impl Update {
    fn of(target: &Target, factors: &Factors) -> Result<Self> {
        let (a, b) = (DenseWeight::new(factors.a.clone())?, factors.b.clone());
        let magnitude = factors.magnitude.as_ref().map(Tensor::to_vec);
        Ok(Update { a, b, magnitude, scaling: target.scaling as f32 })
    }

    /// s·b·A, and the rows' magnitudes.
    fn rows(&self, rows: std::ops::Range<usize>) -> Result<(Vec<f32>, Option<&[f32]>)> {
        let mut update = self.a.apply_transposed(&self.b.rows(rows.start, rows.len())?)?.to_vec();
        update.iter_mut().for_each(|d| *d *= self.scaling);
        Ok((update, self.magnitude.as_ref().map(|m| &m[rows])))
    }
}

fn name(linear: &LinearShape) -> String {
    format!("{}.weight", linear.path)
}

/// The change of a layer; `update` gives d for a range of rows, of which it sees the base's, and the tuned magnitudes where
/// they are not ‖w + d‖.
fn change<'a>(
    checkpoint: &Checkpoint,
    linear: &LinearShape,
    nf4: Option<Nf4Options>,
    update: impl Fn(std::ops::Range<usize>, &[f32]) -> Result<(Vec<f32>, Option<&'a [f32]>)>,
) -> Result<LayerChange> {
    let (name, out, inner) = (name(linear), linear.out_features, linear.in_features);
    let in_4_bits = nf4.is_some() || nf4::is_quantized(checkpoint, &name);
    let base = match in_4_bits {
        true => {
            nf4::weight(checkpoint, &name, (out, inner), WeightOptions { dtype: None, nf4 }, Device::Cpu)?.dense()?
        }
        false => checkpoint.expect(&name, &[out, inner])?,
    };
    let (mut magnitude, mut direction, mut zero_rows) = (0.0, 0.0, 0);
    let step = (TILE / inner.max(1)).max(1);
    for start in (0..out).step_by(step) {
        let rows = start..out.min(start + step);
        let tile = base.rows(start, rows.len())?.to_vec();
        check_finite(&tile, checkpoint, &name)?;
        let (d, m) = update(rows.clone(), &tile)?;
        let row = |i: usize| row_change(&tile[i * inner..][..inner], &d[i * inner..][..inner], m.map(|m| m[i]));
        let changes = map_blocks(rows.len(), inner, |block| block.map(row).collect::<Vec<_>>());
        for (m, cosine) in changes.into_iter().flatten() {
            magnitude += m;
            match cosine {
                Some(change) => direction += change,
                None => zero_rows += 1,
            }
        }
    }
    checkpoint.release(&name)?;
    let mean = |sum: f64, n: usize| if n == 0 { 0.0 } else { sum / n as f64 };
    let (magnitude, direction) = (mean(magnitude, out), mean(direction, out - zero_rows));
    Ok(LayerChange { path: linear.path.clone(), magnitude, direction, zero_rows })
}

fn check_finite(elements: &[f32], checkpoint: &Checkpoint, name: &str) -> Result<()> {
    match elements.iter().all(|x| x.is_finite()) {
        true => Ok(()),
        false => Err(Error::Tensor {
            path: checkpoint.path_of(name).unwrap_or(checkpoint.path()).to_owned(),
            tensor: name.to_owned(),
            found: "elements that are not finite".into(),
            expected: "finite numbers".into(),
        }),
    }
}

/// |‖w'‖ − ‖w‖| and 1 − cos(w', w) of w' = w + d, or of w' = m·(w + d)/‖w + d‖.
fn row_change(w: &[f32], d: &[f32], m: Option<f32>) -> (f64, Option<f64>) {
    let (mut ww, mut wd, mut dd) = (0.0, 0.0, 0.0);
    for (&w, &d) in w.iter().zip(d) {
        let (w, d) = (f64::from(w), f64::from(d));
        ww += w * w;
        wd += w * d;
        dd += d * d;
    }
    let after = (ww + 2.0 * wd + dd).max(0.0);
    let (norm, moved) = (ww.sqrt(), after.sqrt());
    let magnitude = match m {
        Some(m) if moved > 0.0 => (f64::from(m.abs()) - norm).abs(),
        _ if norm + moved == 0.0 => 0.0,
        _ => (2.0 * wd + dd).abs() / (norm + moved),
    };
    if ww == 0.0 || after == 0.0 || m == Some(0.0) {
        return (magnitude, None);
    }
    let cosine = (ww + wd) / (norm * moved);
    let one_less = match cosine >= 0.0 {
        true => ((ww * dd - wd * wd) / (ww * after)).max(0.0) / (1.0 + cosine),
        false => 1.0 - cosine,
    };
    let turned = m.is_some_and(|m| m < 0.0);
    (magnitude, Some(if turned { 2.0 - one_less } else { one_less }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: (f64, Option<f64>), magnitude: f64, direction: Option<f64>) {
        assert!((found.0 - magnitude).abs() <= 1e-9 * magnitude, "{found:?}, expected {magnitude}");
        match (found.1, direction) {
            (Some(found), Some(direction)) => {
                assert!((found - direction).abs() <= 1e-9 * direction, "{found}, expected {direction}")
            }
            (found, direction) => assert_eq!(found, direction),
        }
    }

    #[test]
    fn rows_by_hand() {
        // A quarter turn, twice as long; the same with a magnitude of its own; turned about by a negative one.
        near(row_change(&[1.0, 0.0], &[-1.0, 2.0], None), 1.0, Some(1.0));
        near(row_change(&[1.0, 0.0], &[-1.0, 2.0], Some(5.0)), 4.0, Some(1.0));
        near(row_change(&[3.0, 4.0], &[3.0, 4.0], Some(-7.0)), 2.0, Some(2.0));
        // Straight back; nothing at all.
        near(row_change(&[3.0, 4.0], &[-6.0, -8.0], None), 0.0, Some(2.0));
        near(row_change(&[3.0, 4.0], &[0.0, 0.0], None), 0.0, Some(0.0));
        // Rows that are zero before, after, and both.
        near(row_change(&[0.0, 0.0], &[3.0, 4.0], None), 5.0, None);
        near(row_change(&[3.0, 4.0], &[-3.0, -4.0], Some(2.0)), 5.0, None);
        near(row_change(&[0.0, 0.0], &[0.0, 0.0], Some(2.0)), 0.0, None);
        near(row_change(&[3.0, 4.0], &[1.0, 1.0], Some(0.0)), 5.0, None);
    }

    #[test]
    fn small_changes_keep_their_digits() {
        // w = (1, 0), d = (0, h): ‖w + d‖ − 1 = h²/2 − h⁴/8, and 1 − cos = h²/2 − 3h⁴/8, to first orders.
        for h in [2f32.powi(-8), 2f32.powi(-14), 2f32.powi(-20)] {
            let (h2, h4) = (f64::from(h).powi(2), f64::from(h).powi(4));
            near(row_change(&[1.0, 0.0], &[0.0, h], None), h2 / 2.0 - h4 / 8.0, Some(h2 / 2.0 - 3.0 * h4 / 8.0));
        }
    }
}
