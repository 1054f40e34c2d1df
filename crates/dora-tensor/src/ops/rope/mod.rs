//! Rotary position embedding (Su et al., 2021), in the halves layout of Hugging Face's Llama: inside every head of D
//! elements, element i < D/2 is paired with i + D/2 and turned by the angle position · inv_freq[i]. Backward: turned back.

mod cpu;
#[cfg(test)]
mod tests;

use crate::profile::{self, Direction};
use crate::saved::Recipe;
use crate::{Device, Error, Op, Result, Tensor, record};
use std::sync::Arc;

/// Cosines and sines of every angle up to a number of positions.
#[derive(Debug)]
pub struct RopeTable {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    /// Table for positions `0..positions` with frequencies `inv_freq` (D/2), in radians a position.
    pub fn new(inv_freq: &[f64], positions: usize) -> Self {
        // transformers keeps the frequencies and the angles in f32; their rounding is part of what a model was trained with.
        let angle = |p: usize, f: &f64| (p as f32 * *f as f32) as f64;
        let table = |g: fn(f64) -> f64| {
            (0..positions).flat_map(|p| inv_freq.iter().map(move |f| g(angle(p, f)) as f32)).collect()
        };
        RopeTable { half: inv_freq.len(), cos: table(f64::cos), sin: table(f64::sin) }
    }

    /// Number of positions.
    pub fn positions(&self) -> usize {
        self.cos.len() / self.half.max(1)
    }
}

/// Turns every head of x (n, heads·D) by its row's position.
pub fn rope(x: &Tensor, positions: &Arc<Vec<u32>>, table: &Arc<RopeTable>) -> Result<Tensor> {
    let _running = profile::operation("rope", Direction::Forward);
    let (n, width) = x.dims2("rope", "x")?;
    let head_dim = 2 * table.half;
    if head_dim == 0 || width % head_dim != 0 {
        return Err(Error::shape("rope", "x", x.shape(), format!("(n, heads · {head_dim})")));
    }
    if positions.len() != n {
        return Err(Error::argument("rope", format!("{} positions for {n} rows", positions.len())));
    }
    if let Some(p) = positions.iter().find(|&&p| p as usize >= table.positions()) {
        return Err(Error::argument("rope", format!("position {p} is beyond the table's {}", table.positions())));
    }
    x.as_f32("rope")?;
    let saved = || Rope { positions: positions.clone(), table: table.clone() };
    let recipe = || {
        let (x, positions, table) = (x.detach(), positions.clone(), table.clone());
        Recipe::new(move || Ok(turn(x.clone(), &positions, &table, 1.0)))
    };
    Ok(record(turn(x.detach(), positions, table, 1.0), &[x], saved).with_recipe(recipe))
}

struct Rope {
    positions: Arc<Vec<u32>>,
    table: Arc<RopeTable>,
}

impl Op for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn backward(self: Box<Self>, grad: Tensor, _needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(turn(grad, &self.positions, &self.table, -1.0))])
    }
}

fn turn(mut x: Tensor, positions: &[u32], table: &RopeTable, direction: f32) -> Tensor {
    let width = x.shape()[1];
    match x.device() {
        Device::Cpu => cpu::turn(x.make_mut(), width, positions, table, direction),
    }
    x
}
