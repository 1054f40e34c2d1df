//! Departures from LoRA and DoRA as published: how magnitudes begin, whether the norm is differentiated, LoRA+, and how the
//! optimizer groups parameters; and what PEFT makes of each.

use std::str::FromStr;

use clap::ValueEnum;
use dora_adapters::config::MagnitudeInit;
use serde_json::{Value, json};

use crate::adapter_args::Method;
use crate::failure::Usage;

/// Options of variants. What they make is an adapter that PEFT loads and computes with alike.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Variants")]
pub struct VariantArgs {
    /// How DoRA's magnitudes begin: weight-norm (‖W‖), updated-weight-norm (‖W + sBA‖, the same where B begins at 0), ones, or a
    /// number times ‖W‖ [default: weight-norm]. With --init-adapter: in place of its own, also for a LoRA adapter, which goes on as
    /// DoRA. PEFT loads what comes of it, but can begin with updated-weight-norm only
    #[arg(long, value_name = "weight-norm|updated-weight-norm|ones|FACTOR")]
    pub init_magnitude: Option<InitMagnitude>,
    /// Differentiate DoRA's norm as well, which the paper (section 4.3) and PEFT hold constant; on the CPU. PEFT loads what comes
    /// of it, but trains on with a constant
    #[arg(long)]
    pub exact_norm_gradient: bool,
    /// LoRA+ (arXiv 2402.12354): learning rate of B over --lr [default: 1]
    #[arg(long)]
    pub loraplus_lr_ratio: Option<f64>,
    /// Which parameters share a learning rate and weight decay
    #[arg(long, value_enum, default_value_t = Groups::Role)]
    pub parameter_groups: Groups,
}

/// Groups of the optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Groups {
    /// DoRA's magnitudes have a learning rate of their own, --lr-magnitude, and no weight decay
    Role,
    /// They share B's learning rate and weight decay, as in PEFT's create_loraplus_optimizer
    Peft,
}

/// A value of `--init-magnitude`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InitMagnitude(pub MagnitudeInit);

impl FromStr for InitMagnitude {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(InitMagnitude(match text {
            "weight-norm" => MagnitudeInit::WeightNorm,
            "updated-weight-norm" => MagnitudeInit::UpdatedWeightNorm,
            "ones" => MagnitudeInit::Ones,
            number => match number.parse::<f64>() {
                Ok(factor) if factor > 0.0 && (factor as f32).is_normal() => MagnitudeInit::Scaled(factor),
                _ => {
                    return Err(
                        "expected weight-norm, updated-weight-norm, ones or a number above 0 that f32 holds".into()
                    );
                }
            },
        }))
    }
}

impl InitMagnitude {
    fn json(self) -> Value {
        match self.0 {
            MagnitudeInit::WeightNorm => json!("weight-norm"),
            MagnitudeInit::UpdatedWeightNorm => json!("updated-weight-norm"),
            MagnitudeInit::Ones => json!("ones"),
            MagnitudeInit::Scaled(factor) => json!(factor),
        }
    }

    /// How the model before the first step is not what it would be; `resumes` an adapter, or is new.
    fn moves(self, resumes: bool) -> Option<String> {
        let begin = match self.0 {
            MagnitudeInit::UpdatedWeightNorm if resumes => {
                let text = "note: magnitudes begin at ‖W + sBA‖: what a LoRA adapter makes stays, what a DoRA adapter makes does not";
                return Some(text.into());
            }
            MagnitudeInit::UpdatedWeightNorm | MagnitudeInit::WeightNorm if !resumes => return None,
            MagnitudeInit::Scaled(1.0) if !resumes => return None,
            MagnitudeInit::UpdatedWeightNorm | MagnitudeInit::WeightNorm => "‖W‖".to_owned(),
            MagnitudeInit::Ones => "1".to_owned(),
            MagnitudeInit::Scaled(factor) => format!("{factor} times ‖W‖"),
        };
        let what = if resumes { "what --init-adapter makes" } else { "the base model" };
        Some(format!("note: magnitudes begin at {begin}, so the model before the first step is not {what}"))
    }
}

impl VariantArgs {
    /// Refuses what a method has no use for.
    pub fn check(&self, method: Method, lr_magnitude: bool) -> Result<(), Usage> {
        let refuse = |text: &str| Err(Usage(text.into()));
        if !method.is_dora() && self.init_magnitude.is_some() {
            return refuse("--init-magnitude is for --method dora or qdora, which alone have magnitudes");
        }
        if !method.is_dora() && self.exact_norm_gradient {
            return refuse("--exact-norm-gradient is for --method dora or qdora, which alone have a norm");
        }
        if method == Method::Full && self.loraplus_lr_ratio.is_some() {
            return refuse(
                "--loraplus-lr-ratio is for adapters, which alone have a B, expected none with --method full",
            );
        }
        if !method.is_dora() && self.parameter_groups == Groups::Peft {
            return refuse("--parameter-groups peft is for --method dora or qdora, whose magnitudes it puts with B");
        }
        if self.parameter_groups == Groups::Peft && lr_magnitude {
            return refuse(
                "--lr-magnitude is for --parameter-groups role, expected none with peft, which has B's rate",
            );
        }
        match self.loraplus_lr_ratio {
            Some(ratio) if !(ratio > 0.0 && ratio.is_finite()) => {
                Err(Usage(format!("--loraplus-lr-ratio is {ratio}, expected a number above 0")))
            }
            _ => Ok(()),
        }
    }

    /// Learning rate of B over that of A.
    pub fn ratio(&self) -> f64 {
        self.loraplus_lr_ratio.unwrap_or(1.0)
    }

    /// How magnitudes begin, for the record, as it was asked for; null: as the method has it, or those of an adapter on file.
    pub fn init_magnitude_json(&self) -> Value {
        self.init_magnitude.map_or(Value::Null, InitMagnitude::json)
    }

    /// What the user should know before the first step, and what PEFT does otherwise, for the record as well.
    pub fn notes(&self, method: Method, resumes: bool) -> Vec<String> {
        let mut notes: Vec<String> = self.init_magnitude.and_then(|init| init.moves(resumes)).into_iter().collect();
        let differs = self.init_magnitude.is_some_and(|init| init.0 != MagnitudeInit::UpdatedWeightNorm);
        if differs {
            notes.push("note: PEFT loads these magnitudes, but begins an adapter with ‖W + sBA‖ only".into());
        }
        if self.exact_norm_gradient {
            notes.push(
                "note: PEFT loads this adapter and computes alike, but trains on with the norm held constant".into(),
            );
        }
        if method.is_dora() && self.ratio() != 1.0 && self.parameter_groups == Groups::Role {
            let text = "note: PEFT's LoRA+ has magnitudes at B's learning rate and weight decay; here that is --parameter-groups peft";
            notes.push(text.into());
        }
        notes
    }
}
