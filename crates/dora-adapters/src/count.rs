//! How many parameters an adapter trains, and its model has in all, as PEFT counts and prints them: a layer (out, in) of
//! rank r trains r · (in + out), DoRA out more, and all is every parameter once, the adapter's included.

use crate::targets::Target;
use dora_models::shape::ModelShape;
use std::fmt;

/// Numbers of parameters. Displays as PEFT's line:
/// `trainable params: 1,280 || all params: 38,784 || trainable%: 3.3003`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Parameters of the adapter.
    pub trainable: usize,
    /// Parameters of the model and the adapter.
    pub all: usize,
}

/// Counts an adapter on `targets` of a model.
pub fn count(targets: &[Target], use_dora: bool, shape: &ModelShape) -> Counts {
    let of_target = |target: &Target| {
        let (inputs, outputs) = (target.linear.in_features, target.linear.out_features);
        target.rank * (inputs + outputs) + if use_dora { outputs } else { 0 }
    };
    let trainable = targets.iter().map(of_target).sum();
    Counts { trainable, all: shape.parameters + trainable }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = (100 * self.trainable) as f64 / self.all as f64;
        let (trainable, all) = (thousands(self.trainable), thousands(self.all));
        write!(f, "trainable params: {trainable} || all params: {all} || trainable%: {percent:.4}")
    }
}

/// A number with a comma between each three digits.
pub fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let comma = |place: usize| place > 0 && (digits.len() - place).is_multiple_of(3);
    digits.char_indices().flat_map(|(place, digit)| comma(place).then_some(',').into_iter().chain([digit])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AdapterConfig, Modules, Purpose, TargetModules};
    use crate::targets::resolve;

    fn line(r: usize, use_dora: bool, target_modules: TargetModules) -> String {
        let config = AdapterConfig { r, use_dora, target_modules, ..Default::default() };
        let shape = dora_models::published::find("llama-3-8b").unwrap().description().shape;
        let targets = resolve(&config, &shape, &[], Purpose::Begin).unwrap();
        count(&targets, use_dora, &shape).to_string()
    }

    #[test]
    fn llama_3_8b_counts() {
        let all = || TargetModules::AllLinear;
        let q_and_v = || TargetModules::Only(Modules::Names(vec!["q_proj".into(), "v_proj".into()]));
        assert_eq!(
            line(16, true, all()),
            "trainable params: 43,319,296 || all params: 8,073,580,544 || trainable%: 0.5366"
        );
        assert!(line(16, false, all()).starts_with("trainable params: 41,943,040 || all params: 8,072,204,288 ||"));
        assert!(line(8, false, q_and_v()).starts_with("trainable params: 3,407,872 || "));
        assert!(line(8, true, q_and_v()).starts_with("trainable params: 3,571,712 || "));
    }

    #[test]
    fn commas_stand_between_threes() {
        let lines = [(0, "0"), (7, "7"), (999, "999"), (1000, "1,000"), (12345, "12,345"), (1234567, "1,234,567")];
        lines.into_iter().for_each(|(number, text)| assert_eq!(thousands(number), text));
    }
}
