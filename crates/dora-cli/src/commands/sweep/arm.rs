//! What a sweep varies: arms (a method, perhaps with options of its own), and the learning rates that are tried for each.

use std::str::FromStr;

use clap::ValueEnum;

use crate::adapter_args::Method;
use crate::failure::Usage;

/// Options of `dora train` that an arm may have of its own: they change what is trained, not for how long or on what.
const OPTIONS: [&str; 10] = [
    "alpha",
    "dropout",
    "use-rslora",
    "init-lora-weights",
    "weight-decay",
    "lr-magnitude",
    "init-magnitude",
    "exact-norm-gradient",
    "loraplus-lr-ratio",
    "parameter-groups",
];

/// The rate of `dora train` when none is said.
const RATE: f64 = 2e-4;

/// A method, and options of its own: `dora`, `dora+dropout=0.1`, `lora+use-rslora`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arm {
    /// As it was written.
    pub name: String,
    /// The method.
    pub method: Method,
    /// Its options as `dora train` takes them.
    pub options: Vec<String>,
}

impl FromStr for Arm {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let mut parts = name.split('+');
        let method = parts.next().unwrap_or_default();
        let method = match Method::from_str(method, false) {
            Ok(Method::Full) | Err(_) => return Err("expected lora, dora, qlora or qdora, which have a rank".into()),
            Ok(method) => method,
        };
        let mut seen = Vec::new();
        let option = |part: &str| {
            let option = part.split('=').next().unwrap_or_default();
            if !OPTIONS.contains(&option) {
                return Err(format!("`{part}` is no option of a method, expected one of {}", OPTIONS.join(", ")));
            }
            if seen.contains(&option.to_owned()) {
                return Err(format!("it has {option} twice, expected each option once"));
            }
            seen.push(option.to_owned());
            Ok(format!("--{part}"))
        };
        Ok(Arm { name: name.to_owned(), method, options: parts.map(option).collect::<Result<_, _>>()? })
    }
}

/// `1e-4,3e-4` for every arm, or `dora=1e-4,3e-4` for one.
#[derive(Debug, Clone, PartialEq)]
pub struct Rates {
    arm: Option<String>,
    rates: Vec<f64>,
}

impl FromStr for Rates {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (arm, list) = match text.rsplit_once('=') {
            Some((arm, list)) => (Some(arm.to_owned()), list),
            None => (None, text),
        };
        let rate = |text: &str| match text.trim().parse::<f64>() {
            Ok(rate) if rate > 0.0 && rate.is_finite() => Ok(rate),
            _ => Err(format!("{text:?} is no learning rate, expected a number above 0")),
        };
        let mut rates = list.split(',').map(rate).collect::<Result<Vec<f64>, _>>()?;
        rates.sort_by(f64::total_cmp);
        rates.dedup();
        Ok(Rates { arm, rates })
    }
}

impl Rates {
    /// The rates to try for an arm: those named for it, else those for all.
    pub fn of(given: &[Rates], arm: &Arm) -> Vec<f64> {
        let named = given.iter().find(|rates| rates.arm.as_ref() == Some(&arm.name));
        let shared = || given.iter().find(|rates| rates.arm.is_none());
        named.or_else(shared).map_or(vec![RATE], |rates| rates.rates.clone())
    }

    /// Refuses rates that no arm would take: of an arm that is not there, given twice, or for all where each has its own.
    pub fn check(given: &[Rates], arms: &[Arm]) -> Result<(), Usage> {
        for (i, rates) in given.iter().enumerate() {
            if given[..i].iter().any(|other| other.arm == rates.arm) {
                let of = rates.arm.as_deref().unwrap_or("all methods");
                return Err(Usage(format!("--learning-rates are given twice for {of}, expected once")));
            }
        }
        let own = |arm: &Arm| given.iter().any(|rates| rates.arm.as_ref() == Some(&arm.name));
        if given.iter().any(|rates| rates.arm.is_none()) && arms.iter().all(own) {
            return Err(Usage("--learning-rates for all methods where each has its own, expected either".into()));
        }
        let absent = |rates: &&Rates| rates.arm.as_ref().is_some_and(|name| arms.iter().all(|arm| arm.name != *name));
        match given.iter().find(absent) {
            None => Ok(()),
            Some(rates) => {
                let found = rates.arm.as_deref().unwrap_or_default();
                let names: Vec<&str> = arms.iter().map(|arm| arm.name.as_str()).collect();
                let names = names.join(", ");
                Err(Usage(format!("--learning-rates names {found}, expected one of --methods: {names}")))
            }
        }
    }
}
