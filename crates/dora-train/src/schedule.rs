//! Factor on the learning rate at a step, equal to transformers' `get_constant_schedule_with_warmup`,
//! `get_linear_schedule_with_warmup` and `get_cosine_schedule_with_warmup` (half a cosine). With warm-up w and total T:
//! t/w for t < w; then 1, (T − t)/(T − w), or ½(1 + cos(π (t − w)/(T − w))), never below 0.

/// How the learning rate goes on once it is warm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// Stays at its height.
    Constant,
    /// Falls in a straight line to 0 at the last step.
    Linear,
    /// Falls along half a cosine to 0 at the last step.
    Cosine,
}

impl Schedule {
    /// Factor that step `step` (from 0) multiplies the learning rate by; with warm-up it is 0 at step 0.
    pub fn factor(self, step: usize, warmup_steps: usize, total_steps: usize) -> f64 {
        if step < warmup_steps {
            return step as f64 / warmup_steps as f64;
        }
        let span = total_steps.saturating_sub(warmup_steps).max(1) as f64;
        match self {
            Self::Constant => 1.0,
            Self::Linear => total_steps.saturating_sub(step) as f64 / span,
            Self::Cosine => {
                let progress = (step - warmup_steps) as f64 / span;
                (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-15, "{found} is not {expected}");
    }

    #[test]
    fn warms_up_from_zero() {
        for schedule in [Schedule::Constant, Schedule::Linear, Schedule::Cosine] {
            let factors: Vec<f64> = (0..5).map(|step| schedule.factor(step, 4, 20)).collect();
            assert_eq!(factors, [0.0, 0.25, 0.5, 0.75, 1.0]);
            assert_eq!(schedule.factor(0, 0, 20), 1.0);
        }
    }

    #[test]
    fn constant_stays() {
        assert!((3..40).all(|step| Schedule::Constant.factor(step, 3, 17) == 1.0));
    }

    #[test]
    fn linear_falls_to_zero() {
        close(Schedule::Linear.factor(7, 3, 17), 10.0 / 14.0);
        close(Schedule::Linear.factor(6, 0, 17), 11.0 / 17.0);
        assert_eq!((Schedule::Linear.factor(17, 3, 17), Schedule::Linear.factor(18, 3, 17)), (0.0, 0.0));
    }

    #[test]
    fn cosine_falls_to_zero() {
        close(Schedule::Cosine.factor(10, 3, 17), 0.5);
        close(Schedule::Cosine.factor(4, 0, 16), 0.5 + 0.125f64.sqrt());
        close(Schedule::Cosine.factor(12, 0, 16), 0.5 - 0.125f64.sqrt());
        assert_eq!(Schedule::Cosine.factor(17, 3, 17), 0.0);
    }

    #[test]
    fn warm_up_as_long_as_the_run_or_longer() {
        assert_eq!(Schedule::Cosine.factor(9, 20, 10), 0.45);
        assert_eq!((Schedule::Linear.factor(10, 10, 10), Schedule::Cosine.factor(10, 10, 10)), (0.0, 1.0));
    }
}
