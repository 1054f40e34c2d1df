//! The merged weight: W + sBA for LoRA, g ⊙ (W + sBA) with g = m/‖W + sBA‖ per row for DoRA (1 where the norm is 0). The one
//! place where a dense (out, in) update exists, for writing a plain checkpoint.

use super::super::LowRank;
use super::super::linear::cpu::{accumulate, matrix};
use super::{cpu, cuda};
use crate::cpu::scale_each_row;
use crate::{Device, Result, Tensor, Weight};

/// The merged weight in `f32`. Norms are taken from the merged rows themselves, summed in f64.
pub fn merged(weight: &dyn Weight, update: &LowRank, magnitude: Option<&Tensor>) -> Result<Tensor> {
    update.check(weight.shape())?;
    let (out, inner) = weight.shape();
    let mut w = weight.dense()?;
    match w.device() {
        Device::Cpu => {
            accumulate(update.b.view2("merge", "B")?, update.a.view2("merge", "A")?, &mut w, update.scaling)?;
            if let Some(m) = magnitude {
                m.expect_shape("merge", "magnitude", &[out])?;
                let gain = cpu::gain(m.as_f32("merge")?, &cpu::row_norms(w.as_f32("merge")?, inner));
                scale_each_row(matrix(&mut w), &gain);
            }
        }
        Device::Cuda(gpu) => cuda::merge(gpu, &mut w, update, magnitude)?,
    }
    Ok(w)
}
