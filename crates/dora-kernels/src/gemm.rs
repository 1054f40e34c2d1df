//! The matrix product of a driver: D (m, n) = alpha · op(A) (m, k) · op(B) (k, n) [+ D]. All three lie row after row without
//! gaps; A and B are f32 or bf16, D is f32 or what they are; sums are f32 and rounded once.

use crate::buffer::{identity, same_device};
use crate::{Address, Driver, Element, Error, Result, View, ViewMut};

/// An operand: a matrix as stored, or its transpose.
#[derive(Debug, Clone, Copy)]
pub struct Operand<'a> {
    elements: View<'a>,
    transposed: bool,
}

impl<'a> View<'a> {
    /// As a matrix of a product.
    pub fn plain(self) -> Operand<'a> {
        Operand { elements: self, transposed: false }
    }

    /// As the transpose of the matrix that is stored.
    pub fn transposed(self) -> Operand<'a> {
        Operand { elements: self, transposed: true }
    }
}

/// A product of which the operands were checked. This is what drivers see.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gemm {
    /// Rows of D, columns of D, length of the sums.
    pub shape: [usize; 3],
    /// Factor of the product.
    pub alpha: f32,
    /// Whether the product is added to D.
    pub accumulate: bool,
    /// Whether A and B are stored transposed: A (k, m), B (n, k).
    pub transposed: [bool; 2],
    /// Element type of A and B.
    pub input: Element,
    /// Element type of D.
    pub output: Element,
    /// Where A, B and D begin.
    pub addresses: [Address; 3],
}

/// Queues D = alpha · A · B, added to D when `accumulate`; `shape` is (m, n, k).
pub fn gemm(
    driver: &dyn Driver,
    shape: [usize; 3],
    alpha: f32,
    a: Operand<'_>,
    b: Operand<'_>,
    accumulate: bool,
    d: &mut ViewMut<'_>,
) -> Result<()> {
    let [m, n, k] = shape;
    let (input, output) = (a.elements.element, d.element);
    for (operand, found, expected) in [("A", a.elements.len, m * k), ("B", b.elements.len, k * n), ("D", d.len, m * n)]
    {
        if found != expected {
            return Err(Error::Length { kernel: "gemm", operand, found, expected });
        }
    }
    for (operand, found) in [("A", input), ("B", b.elements.element), ("D", output)] {
        let expected = if operand == "B" { input.to_string() } else { "f32 or bf16".to_owned() };
        if !matches!(found, Element::F32 | Element::BF16) || (operand == "B" && found != input) {
            return Err(Error::Element { kernel: "gemm", operand, found, expected });
        }
    }
    // cuBLASLt has no such product.
    if (input, output) == (Element::F32, Element::BF16) {
        return Err(Error::Element {
            kernel: "gemm",
            operand: "D",
            found: output,
            expected: "f32, as A and B".to_owned(),
        });
    }
    for (operand, owner) in [("A", a.elements.driver), ("B", b.elements.driver), ("D", d.driver)] {
        same_device("gemm", operand, driver, identity(owner))?;
    }
    if m * n == 0 || (k == 0 && accumulate) {
        return Ok(());
    }
    let addresses = [a.elements.address, b.elements.address, d.address];
    if k == 0 {
        // SAFETY: D's view covers these bytes.
        return unsafe { driver.zero(d.address, d.len * output.size()) };
    }
    let transposed = [a.transposed, b.transposed];
    // SAFETY: the three views have the lengths of the shape, and D is borrowed mutably, so it overlaps neither A nor B.
    unsafe { driver.gemm(&Gemm { shape, alpha, accumulate, transposed, input, output, addresses }) }
}
