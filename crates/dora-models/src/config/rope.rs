//! Rotary position embedding as a configuration describes it: the base θ and how its frequencies are scaled.
//!
//! Unscaled: f_i = θ^(−2i/d), i in 0..d/2, radians a position, d = head_dim. linear: f_i / factor. llama3 (Llama 3.1): with the
//! wavelength λ = 2π/f, f stays where λ < L/high, becomes f/factor where λ > L/low, and between them goes smoothly:
//! (1 − t)·f/factor + t·f, t = (L/λ − low)/(high − low), L = original_max_position_embeddings.

use std::f64::consts::TAU;

use super::fields::Fields;
use crate::error::Result;

/// θ where a configuration gives none, as Hugging Face has it.
const DEFAULT_THETA: f64 = 10_000.0;

/// Rotary embedding of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// The base θ.
    pub theta: f64,
    /// How the frequencies are scaled.
    pub scaling: RopeScaling,
}

/// Scaling of the frequencies (`rope_type`).
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// `default`: none.
    None,
    /// `linear`: every frequency is divided by the factor.
    Linear {
        /// The divisor, at least 1.
        factor: f64,
    },
    /// `llama3`: only long wavelengths are scaled.
    Llama3 {
        /// The divisor of the lowest frequencies, at least 1.
        factor: f64,
        /// L/low is the wavelength above which frequencies are scaled fully.
        low_freq_factor: f64,
        /// L/high is the wavelength below which frequencies stay.
        high_freq_factor: f64,
        /// L, the context of pre-training, in tokens.
        original_max_position_embeddings: usize,
    },
}

impl Rope {
    /// The head_dim/2 frequencies in radians a position, scaled. The product with cos and sin is not scaled further.
    pub fn inv_freq(&self, head_dim: usize) -> Vec<f64> {
        let frequency = |i| self.theta.powf(-2.0 * i as f64 / head_dim as f64);
        (0..head_dim / 2).map(frequency).map(|f| self.scaling.apply(f)).collect()
    }

    /// Takes `rope_theta`, `rope_scaling` and `rope_parameters` (the spelling of transformers 5) out of a configuration.
    pub(super) fn take(config: &mut Fields) -> Result<Self> {
        let outer_theta = config.positive("rope_theta")?;
        let (old, new) = (config.object("rope_scaling")?, config.object("rope_parameters")?);
        if old.is_some() && new.is_some() {
            return Err(config.error("rope_scaling", "given beside rope_parameters", "one of the two"));
        }
        let Some(mut fields) = old.or(new) else {
            return Ok(Self { theta: outer_theta.unwrap_or(DEFAULT_THETA), scaling: RopeScaling::None });
        };
        let inner_theta = fields.positive("rope_theta")?;
        let theta = agree(&fields, "rope_theta", inner_theta, outer_theta)?.unwrap_or(DEFAULT_THETA);
        fields.only("partial_rotary_factor", &1.into())?;
        Ok(Self { theta, scaling: RopeScaling::take(fields, config)? })
    }
}

impl RopeScaling {
    fn apply(&self, f: f64) -> f64 {
        match *self {
            Self::None => f,
            Self::Linear { factor } => f / factor,
            Self::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original_max_position_embeddings } => {
                let periods = original_max_position_embeddings as f64 * f / TAU; // L/λ
                let t = ((periods - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 - t) * f / factor + t * f
            }
        }
    }

    fn take(mut fields: Fields, config: &mut Fields) -> Result<Self> {
        let (new, old) = (fields.text("rope_type")?, fields.text("type")?);
        let kind = agree(&fields, "rope_type", new, old)?.unwrap_or_else(|| "default".into());
        let scaling = match kind.as_str() {
            "default" => Self::None,
            "linear" => Self::Linear { factor: factor(&mut fields)? },
            "llama3" => {
                let (inner, outer) = (fields.size(ORIGINAL_MAX)?, config.size(ORIGINAL_MAX)?);
                let Some(original_max_position_embeddings) = agree(&fields, ORIGINAL_MAX, inner, outer)? else {
                    return Err(fields.error(ORIGINAL_MAX, "missing", "a positive integer"));
                };
                let factor = factor(&mut fields)?;
                let low_freq_factor = fields.required_positive("low_freq_factor")?;
                let high_freq_factor = fields.required_positive("high_freq_factor")?;
                if high_freq_factor <= low_freq_factor {
                    let expected = format!("a number above low_freq_factor {low_freq_factor}");
                    return Err(fields.error("high_freq_factor", &high_freq_factor.to_string(), &expected));
                }
                Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings }
            }
            other => return Err(fields.error("rope_type", &format!("{other:?}"), "default, linear or llama3")),
        };
        fields.finish(&format!("no such field with rope_type {kind:?}"))?;
        Ok(scaling)
    }
}

const ORIGINAL_MAX: &str = "original_max_position_embeddings";

fn factor(fields: &mut Fields) -> Result<f64> {
    let factor = fields.required_positive("factor")?;
    if factor < 1.0 { Err(fields.error("factor", &factor.to_string(), "a number of at least 1")) } else { Ok(factor) }
}

/// One value that may be written in two places, which must then be equal.
fn agree<T: PartialEq + std::fmt::Debug>(at: &Fields, name: &str, a: Option<T>, b: Option<T>) -> Result<Option<T>> {
    match (a, b) {
        (Some(a), Some(b)) if a != b => {
            Err(at.error(name, &format!("{a:?} here and {b:?} in its other spelling"), "one value"))
        }
        (a, b) => Ok(a.or(b)),
    }
}
