//! Generation, a token at a time over a cache of keys and values, as transformers' `generate` does it: logits are divided by
//! the temperature, cut to the `top_k` largest, then to the smallest set whose probability reaches `top_p`, then drawn from.
//! Temperature 0 takes the largest.

use std::ops::ControlFlow;

use dora_tensor::rng::Philox;
use dora_tensor::{Device, Result, Tensor};

use crate::model::Model;

/// Keys and values of one document's tokens so far, for every layer.
pub struct Cache {
    layers: Vec<(Tensor, Tensor)>,
    len: usize,
}

impl Cache {
    /// Room for `capacity` tokens of `width` key elements in each layer, on a device.
    pub fn new(device: Device, layers: usize, capacity: usize, width: usize) -> Result<Self> {
        let room = || Tensor::zeros_on(device, &[capacity, width]);
        let layers = (0..layers).map(|_| Ok((room()?, room()?))).collect::<Result<_>>()?;
        Ok(Cache { layers, len: 0 })
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no token.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts the keys and values of the next tokens behind those of a layer, and gives all.
    pub fn put(&mut self, layer: usize, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let (keys, values) = &mut self.layers[layer];
        keys.write_rows(self.len, k)?;
        values.write_rows(self.len, v)?;
        let total = self.len + k.shape()[0];
        Ok((keys.rows(0, total)?, values.rows(0, total)?))
    }

    /// Counts tokens whose keys and values every layer has put.
    pub fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }
}

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Logits are divided by this; 0 is greedy.
    pub temperature: f32,
    /// How many of the likeliest tokens stay; `None`: all.
    pub top_k: Option<usize>,
    /// Probability that the likeliest tokens that stay reach together; 1: all.
    pub top_p: f32,
    /// Seed of the draws.
    pub seed: u64,
}

impl Sampling {
    /// Always the likeliest token.
    pub const GREEDY: Sampling = Sampling { temperature: 0.0, top_k: None, top_p: 1.0, seed: 0 };
}

/// Why generation stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The model ended it.
    Eos,
    /// The tokens asked for are there.
    Length,
    /// The model's context is full.
    Context,
    /// Whoever saw the tokens come had enough.
    Watcher,
}

/// Continues a prompt of at least one token by at most `max_new_tokens`, up to and without one of `eos`; `each` sees every
/// new token as it comes, and may end it there.
pub fn generate(
    model: &dyn Model,
    prompt: &[u32],
    max_new_tokens: usize,
    eos: &[u32],
    sampling: &Sampling,
    mut each: impl FnMut(u32) -> ControlFlow<()>,
) -> Result<(Vec<u32>, Stop)> {
    if prompt.is_empty() {
        return Err(dora_tensor::Error::argument("generate", "the prompt has no token, expected at least one"));
    }
    let room = prompt.len().saturating_add(max_new_tokens).min(model.context());
    let mut cache = model.cache(room.max(prompt.len()))?;
    let mut rng = Philox::new(sampling.seed, 0);
    let (mut new, mut next) = (Vec::new(), prompt.to_vec());
    while new.len() < max_new_tokens {
        if cache.len() + next.len() > model.context() && !new.is_empty() {
            return Ok((new, Stop::Context));
        }
        let hidden = model.extend(&next, &mut cache)?;
        let logits = model.head().apply(&hidden.rows(hidden.shape()[0] - 1, 1)?)?.to_device(Device::Cpu)?;
        let token = choose(logits.to_vec(), sampling, &mut rng);
        if eos.contains(&token) {
            return Ok((new, Stop::Eos));
        }
        new.push(token);
        if each(token).is_break() {
            return Ok((new, Stop::Watcher));
        }
        next = vec![token];
    }
    Ok((new, Stop::Length))
}

/// The next token for its logits; of equal ones the first.
fn choose(logits: Vec<f32>, sampling: &Sampling, rng: &mut Philox) -> u32 {
    if sampling.temperature == 0.0 {
        let best = |best: usize, i: usize| if logits[i] > logits[best] { i } else { best };
        return (0..logits.len()).fold(0, best) as u32;
    }
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
    order.truncate(sampling.top_k.unwrap_or(order.len()).max(1));
    let max = logits[order[0] as usize];
    let weight = |&t: &u32| f64::from((logits[t as usize] - max) / sampling.temperature).exp();
    let mut weights: Vec<f64> = order.iter().map(weight).collect();
    let total: f64 = weights.iter().sum();
    let (mut reached, mut kept) = (0.0, 0);
    while kept < weights.len() && (kept == 0 || reached < f64::from(sampling.top_p) * total) {
        reached += weights[kept];
        kept += 1;
    }
    weights.truncate(kept);
    let mut rest = f64::from(rng.uniform()) * weights.iter().sum::<f64>();
    let drawn = weights.iter().position(|w| {
        rest -= w;
        rest < 0.0
    });
    order[drawn.unwrap_or(kept - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(sampling: &Sampling, logits: &[f32], draws: usize) -> Vec<f64> {
        let mut rng = Philox::new(sampling.seed, 0);
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..draws {
            counts[choose(logits.to_vec(), sampling, &mut rng) as usize] += 1.0 / draws as f64;
        }
        counts
    }

    #[test]
    fn draws_follow_the_softmax_at_the_temperature() {
        let logits = [0.0, 1.0, -1.0, 2.0];
        for temperature in [0.5, 1.0, 2.0] {
            let sampling = Sampling { temperature, seed: 3, ..Sampling::GREEDY };
            let weights = logits.map(|z: f32| f64::from(z / temperature).exp());
            for (got, weight) in share(&sampling, &logits, 20_000).into_iter().zip(weights) {
                assert!((got - weight / weights.iter().sum::<f64>()).abs() < 0.015);
            }
        }
    }

    #[test]
    fn greedy_top_k_and_top_p_cut_the_tail() {
        let logits = [0.0, 1.0, 3.0, 2.0, 3.0];
        assert_eq!(share(&Sampling::GREEDY, &logits, 8)[2], 1.0);
        let hot = Sampling { temperature: 5.0, ..Sampling::GREEDY };
        let alive = |sampling: Sampling| share(&sampling, &logits, 3000).iter().filter(|&&s| s > 0.0).count();
        assert_eq!(alive(hot), 5);
        assert_eq!(alive(Sampling { top_k: Some(3), ..hot }), 3);
        assert_eq!(alive(Sampling { top_k: Some(0), ..hot }), 1);
        // Probabilities at temperature 1, sorted: 0.395, 0.395, 0.145, 0.053, 0.020.
        let one = Sampling { temperature: 1.0, ..Sampling::GREEDY };
        assert_eq!(alive(Sampling { top_p: 0.7, ..one }), 2);
        assert_eq!(alive(Sampling { top_p: 0.8, ..one }), 3);
        assert_eq!(alive(Sampling { top_p: 0.0, ..one }), 1);
    }
}
