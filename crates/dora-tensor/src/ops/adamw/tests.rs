//! Against the formula in f64 over several steps; PyTorch's own figures are a golden test of the `tests` package.

use super::{AdamW, Clip, Moments};
use crate::gradcheck::{Input, compare};
use crate::{Parameter, Role, Tensor};

#[test]
fn agrees_with_f64() {
    for len in [0, 1, 7, 16_387] {
        let parameter = Parameter::new("p", Role::Matrix, Input::normal(1, 0, &[len]).tensor()).unwrap();
        let wide = |t: &Tensor| t.to_vec().into_iter().map(f64::from).collect::<Vec<_>>();
        let mut p = wide(&parameter.value());
        let (mut u, mut v) = (vec![0.0; len], vec![0.0; len]);
        let mut moments = Moments::new(&parameter).unwrap();
        for step in 1..=4 {
            let g = Input::normal(1, step, &[len]).tensor();
            let clip = Clip::new(&[], std::slice::from_ref(&g), 0.5).unwrap();
            let factor = (0.5 / (clip.figures().unwrap().norm + 1e-6)).min(1.0);
            let settings = AdamW { lr: 0.01, weight_decay: 0.1, betas: [0.9, 0.999], eps: 1e-8, step };
            settings.update(&parameter, &g, &mut moments, &clip).unwrap();
            for (i, g) in wide(&g).into_iter().enumerate() {
                let g = g * factor;
                u[i] = 0.9 * u[i] + 0.1 * g;
                v[i] = 0.999 * v[i] + 0.001 * g * g;
                let (c1, c2) = (1.0 - 0.9f64.powf(step as f64), 1.0 - 0.999f64.powf(step as f64));
                p[i] = p[i] * (1.0 - 0.01 * 0.1) - 0.01 / c1 * u[i] / (v[i].sqrt() / c2.sqrt() + 1e-8);
            }
            compare("p", &parameter.value().to_vec(), &p, 1e-6);
        }
        assert_eq!(parameter.version(), 4);
    }
}

#[test]
fn squares_are_summed_in_f64_and_show_what_is_not_finite() {
    for len in [0, 1, 7, 9, 40_001] {
        let x = Input::normal(2, 0, &[len]).tensor();
        let want: f64 = x.to_vec().iter().map(|&x| f64::from(x).powi(2)).sum();
        let halves = [x.rows(0, len / 2).unwrap(), x.rows(len / 2, len - len / 2).unwrap()];
        let norm = Clip::new(&[], &halves, 0.0).unwrap().figures().unwrap().norm;
        assert!((norm * norm - want).abs() <= 1e-12 * want);
    }
    for bad in [f32::NAN, f32::INFINITY] {
        let mut x = vec![1.0; 20_000];
        x[17_003] = bad;
        let x = Tensor::of(x, &[20_000]);
        let clip = Clip::new(&[], std::slice::from_ref(&x), 1.0).unwrap();
        assert!(!clip.figures().unwrap().norm.is_finite());
        let parameter = Parameter::new("p", Role::Matrix, Tensor::of(vec![3.0; 20_000], &[20_000])).unwrap();
        let settings = AdamW { lr: 0.01, weight_decay: 0.1, betas: [0.9, 0.999], eps: 1e-8, step: 1 };
        let mut moments = Moments::new(&parameter).unwrap();
        settings.update(&parameter, &x, &mut moments, &clip).unwrap();
        assert!(parameter.value().to_vec().iter().all(|&p| p == 3.0));
    }
}
