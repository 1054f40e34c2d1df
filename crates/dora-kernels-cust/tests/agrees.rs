//! On a machine with a GPU: both loaders give the same bits, for a kernel and for a product. Type-checked everywhere else.

use std::sync::Arc;

use dora_kernels::cuda::CudaDriver;
use dora_kernels::launch::{RmsNorm, rms_norm_forward};
use dora_kernels::{Buffer, Driver, Element, gemm};
use dora_kernels_cust::CustDriver;

#[test]
fn both_loaders_give_the_same_bits() {
    let drivers: [Arc<dyn Driver>; 2] =
        [Arc::new(CudaDriver::open(0).unwrap()), Arc::new(CustDriver::open(0).unwrap())];
    let results = drivers.map(|driver| {
        let (rows, columns) = (37, 1000);
        let floats: Vec<u8> = (0..rows * columns).flat_map(|i| (f32::sin(i as f32) + 0.1).to_le_bytes()).collect();
        let x = Buffer::from_bytes(&driver, Element::F32, &floats).unwrap();
        let w = Buffer::from_bytes(&driver, Element::F32, &floats[..4 * columns]).unwrap();
        let mut y = Buffer::new(&driver, Element::F32, rows * columns).unwrap();
        let mut rstd = Buffer::new(&driver, Element::F32, rows).unwrap();
        let (x_, y_) = (x.view(), y.view_mut());
        let a = RmsNorm { x: x_, residual: None, w: w.view(), y: y_, rstd: rstd.view_mut(), eps: 1e-5 };
        rms_norm_forward(driver.as_ref(), a).unwrap();
        let mut product = Buffer::new(&driver, Element::F32, rows * rows).unwrap();
        let (a, b) = (x.view().plain(), y.view().transposed());
        gemm(driver.as_ref(), [rows, rows, columns], 1.0, a, b, false, &mut product.view_mut()).unwrap();
        [y, rstd, product].map(|buffer| {
            let mut bytes = vec![0; buffer.len() * 4];
            buffer.download(&mut bytes).unwrap();
            bytes
        })
    });
    assert!(results[0].iter().all(|bytes| bytes.iter().any(|b| *b != 0)));
    assert!(results[0] == results[1], "the loaders differ");
}
