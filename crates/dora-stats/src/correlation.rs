//! Pearson's correlation r of n pairs, and the p-value of "there is none": t = r·√((n − 2)/(1 − r²)) has Student's
//! distribution with n − 2 degrees of freedom where both are normal.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// A correlation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Correlation {
    /// From −1 to 1.
    pub r: f64,
    /// Chance of an |r| at least as large where there is no correlation.
    pub p: f64,
}

/// The correlation of pairs; `None` for fewer than three, or where one side is the same in all.
pub fn correlation(pairs: &[(f64, f64)]) -> Option<Correlation> {
    let n = pairs.len() as f64;
    let mean = |f: fn(&(f64, f64)) -> f64| pairs.iter().map(f).sum::<f64>() / n;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (a, b) in pairs {
        xx += (a - x) * (a - x);
        yy += (b - y) * (b - y);
        xy += (a - x) * (b - y);
    }
    if pairs.len() < 3 || !(xx > 0.0 && yy > 0.0) {
        return None;
    }
    let r = (xy / (xx * yy).sqrt()).clamp(-1.0, 1.0);
    let t = r * ((n - 2.0) / (1.0 - r * r)).sqrt();
    let p = match t.is_finite() {
        true => 2.0 * StudentsT::new(0.0, 1.0, n - 2.0).expect("at least one degree of freedom").sf(t.abs()),
        false => 0.0,
    };
    Some(Correlation { r, p })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_four_pairs_p_is_one_less_r() {
        // For n = 4 r is uniform where there is no correlation.
        let found = correlation(&[(1.0, 3.0), (2.0, -1.0), (3.0, 4.0), (5.0, 6.0)]).unwrap();
        assert!((found.p - (1.0 - found.r.abs())).abs() < 1e-9, "{found:?}");
        // By hand: the deviations' products sum to 10, their squares to 8.75 and 26.
        assert!((found.r - 10.0 / (8.75f64 * 26.0).sqrt()).abs() < 1e-12, "{found:?}");
    }

    #[test]
    fn straight_lines_and_points() {
        let line: Vec<(f64, f64)> = (0..9).map(|i| (i as f64, 7.0 - 0.5 * i as f64)).collect();
        let Correlation { r, p } = correlation(&line).unwrap();
        assert!((r + 1.0).abs() < 1e-12 && p < 1e-40, "{r} {p}");
        assert_eq!(correlation(&[(0.0, 0.0), (1.0, 1.0), (2.0, 2.0)]), Some(Correlation { r: 1.0, p: 0.0 }));
        assert_eq!(correlation(&[(1.0, 2.0), (1.0, 3.0), (1.0, 4.0)]), None);
        assert_eq!(correlation(&line[..2]), None);
        assert_eq!(correlation(&[]), None);
    }
}
