//! Matrix products through cuBLASLt. Asking it for an algorithm takes tens of microseconds, so the answer, with the descriptors that
//! it needs, is kept for each shape, layout and element type.
//!
//! cuBLASLt counts columns first: a row-major (r, c) matrix is to it the transpose, (c, r) with leading dimension c. So
//! D = op(A) · op(B) is asked for as Dᵀ = op(B)ᵀ · op(A)ᵀ: B goes first, and (m, n) becomes (n, m).

use std::collections::HashMap;
use std::ffi::c_void;

use cudarc::cublaslt::{result, sys};

use crate::{Address, Element, Error, Gemm, Result};

/// Scratch for products that split their sums: what NVIDIA recommends for Hopper, and plenty for the others.
pub const WORKSPACE: usize = 32 << 20;

/// cuBLASLt on one device.
#[derive(Debug)]
pub struct Blas {
    handle: sys::cublasLtHandle_t,
    workspace: Address,
    plans: HashMap<Key, Plan>,
}

/// What an algorithm depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    shape: [usize; 3],
    transposed: [bool; 2],
    input: Element,
    output: Element,
    accumulate: bool,
    /// To how many bytes A, B and D are aligned.
    aligned: [u32; 3],
}

#[derive(Debug)]
struct Plan {
    product: sys::cublasLtMatmulDesc_t,
    /// Of B, A and D: the order of the call.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
}

// SAFETY: cuBLASLt's handle and descriptors may be used from any thread, one at a time.
unsafe impl Send for Blas {}

impl Blas {
    /// A handle for the current context.
    ///
    /// # Safety
    /// A context is current here and when this is dropped, and `WORKSPACE` bytes on its device, aligned to 256, begin at
    /// `workspace` and are used by nothing else until then.
    pub unsafe fn new(workspace: Address) -> Result<Self> {
        // SAFETY: only asks the loader whether the library opens; cudarc would panic later where it does not.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::NoBlas);
        }
        let handle = result::create_handle().map_err(|e| Error::driver("cublasLtCreate", e))?;
        Ok(Blas { handle, workspace, plans: HashMap::new() })
    }

    /// Queues a product.
    ///
    /// # Safety
    /// The context of the handle is current, the stream belongs to it, and the addresses hold the elements of the shape.
    pub unsafe fn run(&mut self, product: &Gemm, stream: *mut c_void) -> Result<()> {
        let key = Key::new(product);
        if !self.plans.contains_key(&key) {
            let plan = Plan::new(self.handle, &key).map_err(|e| Error::driver(format!("cuBLASLt for {key:?}"), e))?;
            self.plans.insert(key, plan);
        }
        let plan = &self.plans[&key];
        let (alpha, beta) = (product.alpha, if product.accumulate { 1.0f32 } else { 0.0 });
        let [a, b, d] = product.addresses;
        let [layout_b, layout_a, layout_d] = plan.layouts;
        // SAFETY: the caller's promise; the descriptors are those of this key.
        let queued = unsafe {
            result::matmul(
                self.handle,
                plan.product,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                b as *const c_void,
                layout_b,
                a as *const c_void,
                layout_a,
                d as *const c_void,
                layout_d,
                d as *mut c_void,
                layout_d,
                &raw const plan.algorithm,
                self.workspace as *mut c_void,
                WORKSPACE,
                stream.cast(),
            )
        };
        queued.map_err(|e| Error::driver(format!("cublasLtMatmul for {key:?}"), e))
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        // What fails to be destroyed is lost, and there is nobody to tell.
        // SAFETY: made by `new` and `Plan::new`, and destroyed once.
        unsafe {
            for plan in self.plans.values() {
                for layout in plan.layouts {
                    let _ = result::destroy_matrix_layout(layout);
                }
                let _ = result::destroy_matmul_desc(plan.product);
            }
            let _ = result::destroy_handle(self.handle);
        }
    }
}

impl Key {
    fn new(product: &Gemm) -> Self {
        Key {
            shape: product.shape,
            transposed: product.transposed,
            input: product.input,
            output: product.output,
            accumulate: product.accumulate,
            aligned: product.addresses.map(|address| 1 << address.trailing_zeros().min(8)),
        }
    }

    /// (first, second, result) of the call: element type, rows, columns and leading dimension as cuBLASLt counts them.
    fn layouts(&self) -> [(Element, u64, u64, i64); 3] {
        let [m, n, k] = self.shape;
        let stored = |element, rows: usize, columns: usize| (element, columns as u64, rows as u64, columns as i64);
        let operand = |transposed: bool, rows, columns| match transposed {
            false => stored(self.input, rows, columns),
            true => stored(self.input, columns, rows),
        };
        [operand(self.transposed[1], k, n), operand(self.transposed[0], m, k), stored(self.output, m, n)]
    }
}

impl Plan {
    fn new(handle: sys::cublasLtHandle_t, key: &Key) -> std::result::Result<Plan, result::CublasError> {
        use sys::cublasLtMatmulDescAttributes_t::{CUBLASLT_MATMUL_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSB};
        use sys::cublasLtMatmulPreferenceAttributes_t as Preference;
        let mut layouts = [std::ptr::null_mut(); 3];
        for (layout, (element, rows, columns, leading)) in layouts.iter_mut().zip(key.layouts()) {
            *layout = result::create_matrix_layout(data_type(element), rows, columns, leading)?;
        }
        let (compute, scale) = (sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType_t::CUDA_R_32F);
        let product = result::create_matmul_desc(compute, scale)?;
        let preference = result::create_matmul_pref()?;
        let [aligned_a, aligned_b, aligned_d] = key.aligned;
        // SAFETY: the descriptors were just made; every attribute has the type that cuBLASLt documents for it.
        unsafe {
            for (attribute, transposed) in
                [(CUBLASLT_MATMUL_DESC_TRANSA, key.transposed[1]), (CUBLASLT_MATMUL_DESC_TRANSB, key.transposed[0])]
            {
                let value = i32::from(transposed); // CUBLAS_OP_N is 0, CUBLAS_OP_T 1
                result::set_matmul_desc_attribute(product, attribute, (&raw const value).cast(), size_of::<i32>())?;
            }
            let workspace = WORKSPACE;
            let attribute = Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            result::set_matmul_pref_attribute(
                preference,
                attribute,
                (&raw const workspace).cast(),
                size_of::<usize>(),
            )?;
            for (attribute, bytes) in [
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, aligned_b),
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, aligned_a),
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, aligned_d),
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, aligned_d),
            ] {
                result::set_matmul_pref_attribute(preference, attribute, (&raw const bytes).cast(), size_of::<u32>())?;
            }
            let [first, second, sums] = layouts;
            let chosen = result::get_matmul_algo_heuristic(handle, product, first, second, sums, sums, preference);
            result::destroy_matmul_pref(preference)?;
            Ok(Plan { product, layouts, algorithm: chosen?.algo })
        }
    }
}

fn data_type(element: Element) -> sys::cudaDataType {
    match element {
        Element::BF16 => sys::cudaDataType_t::CUDA_R_16BF,
        _ => sys::cudaDataType_t::CUDA_R_32F,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A (2, 3) · Bᵀ with B stored (5, 3): cuBLASLt sees B first as (3, 5), to be transposed, then A as (3, 2), and D as (5, 2).
    #[test]
    fn row_major_operands_are_described_as_their_transposes() {
        let product = Gemm {
            shape: [2, 5, 3],
            alpha: 1.0,
            accumulate: false,
            transposed: [false, true],
            input: Element::BF16,
            output: Element::F32,
            addresses: [256, 48, 1024 + 4],
        };
        let key = Key::new(&product);
        assert_eq!(key.aligned, [256, 16, 4]);
        let expected = [(Element::BF16, 3, 5, 3), (Element::BF16, 3, 2, 3), (Element::F32, 5, 2, 5)];
        assert_eq!(key.layouts(), expected);
        let turned = Key { transposed: [true, false], ..key };
        assert_eq!(turned.layouts()[..2], [(Element::BF16, 5, 3, 5), (Element::BF16, 2, 3, 2)]);
    }
}
