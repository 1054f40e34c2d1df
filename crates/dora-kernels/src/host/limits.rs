//! What a card refuses to launch, and the processor would run all the same: the least of all cards from Ampere on.

use crate::{Error, Result, Shape};

/// Threads of a block.
const THREADS: u32 = 1024;
/// Blocks in x, y and z.
const GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];
/// Bytes of shared memory of a block, static and dynamic: what cards of compute capability 8.6, 8.9 and 12.0 give when asked, and
/// the drivers always ask. Of what is static alone, 48 KiB, nvcc sees to.
const SHARED: usize = 99 << 10;

/// Refuses a launch that no block, or not every card, would take. `fixed` is the static shared memory of the module, which is
/// that of the kernel or, where the module has several, more.
pub(super) fn check(kernel: &str, shape: Shape, fixed: usize) -> Result<()> {
    let Shape { grid, threads, shared } = shape;
    let refuse = |message: String| Err(Error::Fault(format!("{kernel}: {message}")));
    if !(1..=THREADS).contains(&threads) {
        return refuse(format!("blocks of {threads} threads, expected 1 to {THREADS}"));
    }
    for ((axis, found), most) in ["x", "y", "z"].iter().zip(grid).zip(GRID) {
        if !(1..=most).contains(&found) {
            return refuse(format!("{found} blocks in {axis}, expected 1 to {most}"));
        }
    }
    if fixed + shared as usize > SHARED {
        return refuse(format!(
            "{shared} bytes of dynamic shared memory beside {fixed} static ones, expected at most {SHARED}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_is_the_last_that_passes() {
        let widest = Shape { grid: [i32::MAX as u32, 65_535, 65_535], threads: 1024, shared: 101_376 - 128 };
        let [x, y, z] = widest.grid;
        assert_eq!(check("k", widest, 128), Ok(()));
        assert_eq!(check("k", Shape { grid: [1; 3], threads: 1, shared: 0 }, 0), Ok(()));
        for (shape, expected) in [
            (Shape { threads: 1025, ..widest }, "k: blocks of 1025 threads, expected 1 to 1024"),
            (Shape { threads: 0, ..widest }, "k: blocks of 0 threads, expected 1 to 1024"),
            (Shape { grid: [x + 1, y, z], ..widest }, "k: 2147483648 blocks in x, expected 1 to 2147483647"),
            (Shape { grid: [x, y + 1, z], ..widest }, "k: 65536 blocks in y, expected 1 to 65535"),
            (Shape { grid: [x, y, z + 1], ..widest }, "k: 65536 blocks in z, expected 1 to 65535"),
            (Shape { grid: [x, 0, z], ..widest }, "k: 0 blocks in y, expected 1 to 65535"),
            (
                Shape { shared: widest.shared + 1, ..widest },
                "k: 101249 bytes of dynamic shared memory beside 128 static ones, expected at most 101376",
            ),
        ] {
            assert_eq!(check("k", shape, 128).unwrap_err().to_string(), expected);
        }
    }
}
