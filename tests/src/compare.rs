//! Comparing tensors: the largest difference against the largest expected element, so that a tolerance means the same for
//! logits of size 10 and gradients of size 1e-3.

use dora_tensor::Tensor;

/// max |found − expected| / max |expected|; infinite where something is not finite, or differs from nothing but zeros.
pub fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0, |max: f32, x| max.max(x.abs()));
    let mut error: f32 = 0.0;
    for (found, expected) in found.iter().zip(expected) {
        let difference = (found - expected).abs();
        match difference == 0.0 || (difference / largest).is_finite() {
            true => error = error.max(if difference == 0.0 { 0.0 } else { difference / largest }),
            false => return f32::INFINITY,
        }
    }
    error
}

/// Fails unless the shapes are equal and the relative error is at most `tolerance`; `--nocapture` shows the error.
pub fn assert_close(what: &str, found: &Tensor, expected: &Tensor, tolerance: f32) {
    assert_eq!(found.shape(), expected.shape(), "{what}");
    let error = relative_error(&found.to_vec(), &expected.to_vec());
    println!("{what}: {error:.1e}");
    assert!(error <= tolerance, "{what}: relative error {error:.2e}, expected at most {tolerance:.0e}");
}

/// Fails unless shapes, types and bytes are equal.
pub fn assert_same(what: &str, found: &Tensor, expected: &Tensor) {
    assert_eq!((found.shape(), found.dtype()), (expected.shape(), expected.dtype()), "{what}");
    let error = || relative_error(&found.to_vec(), &expected.to_vec());
    assert!(found.to_bytes() == expected.to_bytes(), "{what}: relative error {:.2e}, expected equal bytes", error());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_count_against_the_largest_element() {
        assert_eq!(relative_error(&[1.0, -4.0], &[1.5, -4.0]), 0.125);
        assert_eq!(relative_error(&[0.0, -0.0], &[0.0, 0.0]), 0.0);
        assert_eq!(relative_error(&[1e-30], &[0.0]), f32::INFINITY);
        assert_eq!(relative_error(&[f32::NAN, 1.0], &[1.0, 1.0]), f32::INFINITY);
        assert_eq!(relative_error(&[f32::INFINITY], &[1.0]), f32::INFINITY);
    }
}
