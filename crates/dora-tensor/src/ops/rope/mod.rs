//! Rotary position embedding (Su et al., 2021), in the halves layout of Hugging Face's Llama: inside every head of D
//! elements, element i < D/2 is paired with i + D/2 and turned by the angle position · inv_freq[i]. Backward: turned back.

mod cpu;
mod cuda;
#[cfg(test)]
mod tests;

use crate::cuda::Copied;
use crate::profile::{self, Direction};
use crate::saved::Recipe;
use crate::{Device, Error, Op, Result, Tensor, record};
use dora_kernels::Buffer;
use std::sync::Arc;

/// Cosines and sines of every angle up to a number of positions.
#[derive(Debug)]
pub struct RopeTable {
    half: usize,
    positions: usize,
    /// (positions, half).
    cos: Tensor,
    /// (positions, half).
    sin: Tensor,
}

/// Position of each row.
#[derive(Debug)]
pub struct Positions {
    of_rows: Vec<u32>,
    on_device: Copied<Buffer>,
}

impl From<Vec<u32>> for Positions {
    fn from(of_rows: Vec<u32>) -> Self {
        Positions { of_rows, on_device: Copied::default() }
    }
}

impl RopeTable {
    /// Table for positions `0..positions` with frequencies `inv_freq` (D/2), in radians a position.
    pub fn new(inv_freq: &[f64], positions: usize) -> Self {
        // transformers keeps the frequencies and the angles in f32; their rounding is part of what a model was trained with.
        let angle = |p: usize, f: &f64| (p as f32 * *f as f32) as f64;
        let table = |g: fn(f64) -> f64| {
            let angles = (0..positions).flat_map(|p| inv_freq.iter().map(move |f| g(angle(p, f)) as f32));
            Tensor::of(angles.collect::<Vec<_>>(), &[positions, inv_freq.len()])
        };
        RopeTable { half: inv_freq.len(), positions, cos: table(f64::cos), sin: table(f64::sin) }
    }

    /// The same table on another device.
    pub fn to_device(&self, device: Device) -> Result<Self> {
        Ok(RopeTable { cos: self.cos.to_device(device)?, sin: self.sin.to_device(device)?, ..*self })
    }

    /// Number of positions.
    pub fn positions(&self) -> usize {
        self.positions
    }
}

/// Turns every head of x (n, heads·D) by its row's position.
pub fn rope(x: &Tensor, positions: &Arc<Positions>, table: &Arc<RopeTable>) -> Result<Tensor> {
    let _running = profile::operation("rope", Direction::Forward);
    let (n, width) = x.dims2("rope", "x")?;
    let head_dim = 2 * table.half;
    if head_dim == 0 || width % head_dim != 0 {
        return Err(Error::shape("rope", "x", x.shape(), format!("(n, heads · {head_dim})")));
    }
    if positions.of_rows.len() != n {
        return Err(Error::argument("rope", format!("{} positions for {n} rows", positions.of_rows.len())));
    }
    if let Some(p) = positions.of_rows.iter().find(|&&p| p as usize >= table.positions()) {
        return Err(Error::argument("rope", format!("position {p} is beyond the table's {}", table.positions())));
    }
    let saved = || Rope { positions: positions.clone(), table: table.clone() };
    let recipe = || {
        let (x, positions, table) = (x.detach(), positions.clone(), table.clone());
        Recipe::new(move || turn(x.clone(), &positions, &table, 1.0))
    };
    Ok(record(turn(x.detach(), positions, table, 1.0)?, &[x], saved).with_recipe(recipe))
}

struct Rope {
    positions: Arc<Positions>,
    table: Arc<RopeTable>,
}

impl Op for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn backward(self: Box<Self>, grad: Tensor, _needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(turn(grad, &self.positions, &self.table, -1.0)?)])
    }
}

fn turn(x: Tensor, positions: &Positions, table: &RopeTable, direction: f32) -> Result<Tensor> {
    match x.device() {
        Device::Cpu => cpu::turn(x, &positions.of_rows, table, direction),
        Device::Cuda(gpu) => cuda::turn(gpu, x, positions, table, direction),
    }
}
