//! The learning rate's factors against transformers' schedulers.

use dora_tests::Case;
use dora_train::schedule::Schedule;

/// The files are `f32`.
const TOLERANCE: f64 = 6e-8;

#[test]
fn factors_are_those_of_transformers() {
    let case = Case::open("schedules");
    let total = case.json["total_steps"].as_u64().unwrap() as usize;
    for warmup in case.json["warmup_steps"].as_array().unwrap() {
        let schedules = [("constant", Schedule::Constant), ("linear", Schedule::Linear), ("cosine", Schedule::Cosine)];
        for (name, schedule) in schedules {
            let factors = case.expected(&format!("warmup_{warmup}.{name}")).to_vec();
            assert_eq!(factors.len(), total + 1);
            for (step, expected) in factors.into_iter().enumerate() {
                let found = schedule.factor(step, warmup.as_u64().unwrap() as usize, total);
                let difference = (found - f64::from(expected)).abs();
                assert!(difference <= TOLERANCE, "{name}, warm-up {warmup}, step {step}: {found} is not {expected}");
            }
        }
    }
}
