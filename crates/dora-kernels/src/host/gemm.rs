//! The matrix product of the host driver: widened to f32, then one call of the `gemm` crate.

use half::bf16;

use crate::{Address, Element, Gemm};

/// # Safety
/// The product's addresses hold the elements of its shape, and nothing else uses D.
pub(super) unsafe fn run(product: &Gemm) {
    let [m, n, k] = product.shape;
    let [a, b, d] = product.addresses;
    // SAFETY: the caller's promise.
    let (a, b) = unsafe { (widened(a, product.input, m * k), widened(b, product.input, k * n)) };
    // SAFETY: as above.
    let mut sums = if product.accumulate { unsafe { widened(d, product.output, m * n) } } else { vec![0.0; m * n] };
    // Strides between rows and between columns.
    let strides = |transposed: bool, rows: usize, columns: usize| match transposed {
        false => (columns as isize, 1),
        true => (1, rows as isize),
    };
    let (a_row, a_column) = strides(product.transposed[0], m, k);
    let (b_row, b_column) = strides(product.transposed[1], k, n);
    // SAFETY: the three vectors have the shape's elements, and the strides stay within them.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            sums.as_mut_ptr(),
            1,
            n as isize,
            true,
            a.as_ptr(),
            a_column,
            a_row,
            b.as_ptr(),
            b_column,
            b_row,
            1.0,
            product.alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
    // SAFETY: the caller's promise.
    unsafe { store(d, product.output, &sums) }
}

unsafe fn widened(address: Address, element: Element, len: usize) -> Vec<f32> {
    // SAFETY: the caller's promise.
    unsafe {
        match element {
            Element::F32 => std::slice::from_raw_parts(address as *const f32, len).to_vec(),
            _ => std::slice::from_raw_parts(address as *const bf16, len).iter().map(|x| x.to_f32()).collect(),
        }
    }
}

unsafe fn store(address: Address, element: Element, values: &[f32]) {
    // SAFETY: the caller's promise.
    unsafe {
        match element {
            Element::F32 => std::slice::from_raw_parts_mut(address as *mut f32, values.len()).copy_from_slice(values),
            _ => {
                let to = std::slice::from_raw_parts_mut(address as *mut bf16, values.len());
                to.iter_mut().zip(values).for_each(|(to, x)| *to = bf16::from_f32(*x));
            }
        }
    }
}
