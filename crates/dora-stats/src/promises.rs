//! Simulations with a fixed seed: tests keep their error rate, intervals cover, power is what was predicted.

use statrs::distribution::{ContinuousCDF, Normal};

use crate::random::Random;
use crate::{ALPHA, Answers, Differences, Interval, Seeds, accuracy_interval, holm};

const SIMULATIONS: usize = 10_000;

impl Random {
    fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        Normal::standard().inverse_cdf(self.uniform().clamp(1e-12, 1.0 - 1e-12))
    }

    /// Answers to n questions of which a share `only_a` is right with A alone, and so on.
    fn answers(&mut self, n: usize, only_a: f64, only_b: f64) -> Answers {
        let answer = |u: f64| match u {
            u if u < only_a => (true, false),
            u if u < only_a + only_b => (false, true),
            u if u < only_a + only_b + 0.5 * (1.0 - only_a - only_b) => (true, true),
            _ => (false, false),
        };
        Answers::count((0..n).map(|_| answer(self.uniform())))
    }
}

/// Share of simulations in which `f` holds.
fn share(seed: u64, mut f: impl FnMut(&mut Random) -> bool) -> f64 {
    let mut random = Random::new(seed);
    (0..SIMULATIONS).filter(|_| f(&mut random)).count() as f64 / SIMULATIONS as f64
}

#[track_caller]
fn within(value: f64, low: f64, high: f64) {
    assert!((low..=high).contains(&value), "{value}, expected {low} to {high}");
}

fn holds(interval: Interval, value: f64) -> bool {
    (interval.low..=interval.high).contains(&value)
}

#[test]
fn mcnemar_keeps_its_error_rate() {
    // The exact test never errs more often than promised; on many questions not much less often either.
    for (n, discordant, least) in [(20, 0.3, 0.0), (100, 0.2, 0.015), (500, 0.2, 0.03), (2000, 0.15, 0.035)] {
        within(share(1, |r| r.answers(n, discordant / 2.0, discordant / 2.0).p() < ALPHA), least, 0.0545);
    }
}

#[test]
fn mcnemar_has_the_power_predicted() {
    // Connor (1987): Φ((δ√n − z√ψ)/√(ψ − δ²)). The exact test stays a little below it.
    let power = |n: usize, psi: f64, delta: f64| {
        let z = (delta * (n as f64).sqrt() - crate::Z * psi.sqrt()) / (psi - delta * delta).sqrt();
        Normal::standard().cdf(z)
    };
    for (n, discordant, difference) in [(500, 0.2, 0.06), (1000, 0.3, 0.05), (1500, 0.1, 0.01)] {
        let (a, b) = ((discordant - difference) / 2.0, (discordant + difference) / 2.0);
        let found = share(2, |r| r.answers(n, a, b).p() < ALPHA);
        let predicted = power(n, discordant, difference);
        within(found, predicted - 0.045, predicted + 0.02);
    }
    // The smallest difference is found about 4 times of 5.
    let smallest = Answers { both: 250, only_a: 50, only_b: 50, neither: 150 }.smallest_difference();
    within(share(3, |r| r.answers(500, 0.1 - smallest / 2.0, 0.1 + smallest / 2.0).p() < ALPHA), 0.75, 0.84);
}

#[test]
fn intervals_of_accuracy_cover() {
    for (n, only_a, only_b) in [(30, 0.1, 0.2), (200, 0.02, 0.03), (500, 0.08, 0.12)] {
        within(share(4, |r| holds(r.answers(n, only_a, only_b).interval(), only_b - only_a)), 0.945, 0.99);
    }
    for (n, right) in [(12, 0.9), (60, 0.3), (500, 0.57)] {
        let covers = |r: &mut Random| {
            let count = (0..n).filter(|_| r.uniform() < right).count();
            holds(accuracy_interval(count, n), right)
        };
        within(share(5, covers), 0.948, 0.998);
    }
}

/// Items of different lengths whose differences have a mean of `shift` a token and, when skewed, a long tail.
fn items(random: &mut Random, n: usize, shift: f64, skewed: bool) -> Differences {
    let item = |_| {
        let tokens = 1 + random.below(6);
        let noise =
            |random: &mut Random| if skewed { -random.uniform().max(1e-300).ln() - 1.0 } else { random.normal() };
        let sum: f64 = (0..tokens).map(|_| noise(random)).sum();
        (sum + shift * tokens as f64, tokens as f64)
    };
    Differences::new((0..n).map(item).collect()).unwrap()
}

#[test]
fn the_bootstrap_covers() {
    for (n, skewed, least) in [(40, false, 0.93), (120, false, 0.94), (120, true, 0.93)] {
        within(share(6, |r| holds(items(r, n, 0.3, skewed).interval_of(600), 0.3)), least, 0.963);
    }
}

#[test]
fn intervals_that_agree_with_their_test_cover() {
    // Where there is no difference they cover as often as the test says so, with however few items; else no less than before.
    let covers = |n: usize, shift: f64, skewed: bool, agreeing: bool| {
        share(16, |r| {
            let items = items(r, n, shift, skewed);
            let interval = items.interval_of(600);
            holds(if agreeing { interval.agreeing(items.mean(), items.p_of(599)) } else { interval }, shift)
        })
    };
    within(covers(6, 0.0, false, true), 0.945, 0.975);
    within(covers(60, 0.0, false, true), 0.942, 0.958);
    for (n, skewed) in [(6, false), (20, true), (40, false)] {
        within(covers(n, 0.3, skewed, true), covers(n, 0.3, skewed, false), 0.97);
    }
    for (n, only_a, only_b) in [(12, 0.1, 0.2), (30, 0.02, 0.3), (200, 0.02, 0.03)] {
        let covers = |r: &mut Random| {
            let answers = r.answers(n, only_a, only_b);
            holds(answers.interval().agreeing(answers.difference(), answers.p()), only_b - only_a)
        };
        within(share(17, covers), 0.945, 0.999);
    }
}

#[test]
fn sign_flips_keep_their_error_rate_and_power() {
    for (n, skewed) in [(10, false), (60, false), (120, true)] {
        within(share(7, |r| items(r, n, 0.0, skewed).p_of(599) < ALPHA), 0.042, 0.058);
    }
    // The standard error of such items is that of a token over √tokens, of which an item has 3.5 on average.
    let smallest = crate::DETECTABLE / (120.0f64 * 3.5).sqrt();
    within(share(8, |r| items(r, 120, smallest, false).p_of(599) < ALPHA), 0.76, 0.83);
    let stated = items(&mut Random::new(9), 2000, 0.0, false).smallest_difference() * (2000.0f64 / 120.0).sqrt();
    within(stated, 0.93 * smallest, 1.07 * smallest);
}

fn seeds(random: &mut Random, k: usize, shift: f64) -> Seeds {
    Seeds::new((0..k).map(|_| random.normal() + shift).collect()).unwrap()
}

#[test]
fn seeds_keep_their_error_rate_cover_and_have_the_power_predicted() {
    for k in [4, 6, 10] {
        within(share(10, |r| seeds(r, k, 0.0).p() < ALPHA), 0.044, 0.056);
        within(share(11, |r| holds(seeds(r, k, 0.7).interval(), 0.7)), 0.944, 0.956);
    }
    // With 4 seeds sign flips can never say anything; with 6 they can, and keep to their word.
    assert_eq!(share(12, |r| seeds(r, 4, 3.0).p_by_sign_flips() < ALPHA), 0.0);
    within(share(12, |r| seeds(r, 6, 0.0).p_by_sign_flips() < ALPHA), 0.02, 0.055);
    for k in [5, 8] {
        let unit = Seeds { deviation: 1.0, ..seeds(&mut Random::new(0), k, 0.0) };
        within(share(13, |r| seeds(r, k, unit.smallest_difference()).p() < ALPHA), 0.72, 0.88);
    }
}

#[test]
fn holm_keeps_the_error_rate_of_a_family() {
    // Eight tasks without a difference: any false call among them.
    let any = |p: Vec<f64>| holm(&p).iter().any(|p| *p < ALPHA);
    within(share(14, |r| any((0..8).map(|_| r.uniform()).collect())), 0.04, 0.055);
    // Five of them with a clear one: a false call among the other three.
    let false_call = |r: &mut Random| {
        let p: Vec<f64> = (0..8).map(|i| if i < 5 { 1e-9 } else { r.uniform() }).collect();
        holm(&p)[5..].iter().any(|p| *p < ALPHA)
    };
    within(share(15, false_call), 0.04, 0.055);
}
