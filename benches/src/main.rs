//! The `gemm` crate's own rate at the shapes of a model's linear layers, which a whole step's rate is measured against:
//!
//!     cargo run --release -p dora-benches -- MODEL TOKENS
//!
//! For W (out, in) and n tokens the two products of a step: y (n, out) = x (n, in)·Wᵀ and dx (n, in) = dy (n, out)·W, each
//! 2·n·in·out FLOPs. Each is made by the crate's own parallelism and by one call a thread on an equal share of the rows; the
//! faster counts. The rate of all is Σ FLOPs / Σ seconds over every layer of the model, the output embedding included. Threads
//! are rayon's (`RAYON_NUM_THREADS`). Prints one JSON object.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

use dora_models::model::Architecture;
use gemm::Parallelism;
use rayon::prelude::*;
use serde_json::json;

/// Time that a product is measured for, in seconds, and the fewest calls.
const MEASURED: (f64, usize) = (0.15, 3);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, tokens] = arguments.as_slice() else {
        return Err("usage: dora-benches MODEL TOKENS".into());
    };
    let tokens = tokens.parse()?;
    let dir = Path::new(model);
    let mut layers: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for linear in Architecture::of(dir)?.read(dir)?.shape.linears {
        *layers.entry((linear.out_features, linear.in_features)).or_default() += 1;
    }
    let (mut flops, mut seconds, mut products) = (0.0, 0.0, Vec::new());
    for ((out, inner), count) in layers {
        for direction in [Direction::Forward, Direction::Backward] {
            let (own, per_thread) = times(direction, tokens, out, inner);
            let work = 2.0 * (tokens * out * inner) as f64;
            flops += count as f64 * work;
            seconds += count as f64 * own.min(per_thread);
            products.push(json!({
                "out": out, "in": inner, "layers": count, "backward": direction == Direction::Backward,
                "own_gflops": work / own / 1e9, "per_thread_gflops": work / per_thread / 1e9,
            }));
        }
    }
    println!("{}", json!({ "gflops": flops / seconds / 1e9, "tokens": tokens, "products": products }));
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forward,
    Backward,
}

/// Median seconds of a product by the crate's own parallelism, and by one call a thread.
fn times(direction: Direction, tokens: usize, out: usize, inner: usize) -> (f64, f64) {
    let w = filled(out * inner);
    // (columns, depth) of the product, and the strides of W as its right side.
    let (columns, depth, strides) = match direction {
        Direction::Forward => (out, inner, [1, inner]),
        Direction::Backward => (inner, out, [inner, 1]),
    };
    let (x, mut y) = (filled(tokens * depth), vec![0.0; tokens * columns]);
    let own = median_seconds(|| product(&x, &w, strides, depth, &mut y, columns, Parallelism::Rayon(0)));
    let share = tokens.div_ceil(rayon::current_num_threads());
    let per_thread = median_seconds(|| {
        let parts = y.par_chunks_mut(share * columns).zip(x.par_chunks(share * depth));
        parts.for_each(|(y, x)| product(x, &w, strides, depth, y, columns, Parallelism::None));
    });
    (own, per_thread)
}

/// Numbers of both signs, none of them tiny.
fn filled(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37 % 101) as f32 - 50.3) / 50.0).collect()
}

fn median_seconds(mut run: impl FnMut()) -> f64 {
    run();
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < MEASURED.1 || start.elapsed().as_secs_f64() < MEASURED.0 {
        let one = Instant::now();
        run();
        times.push(one.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// y (n, columns) = x (n, depth)·w, where w (depth, columns) has those strides of rows and columns.
fn product(
    x: &[f32],
    w: &[f32],
    strides: [usize; 2],
    depth: usize,
    y: &mut [f32],
    columns: usize,
    parallelism: Parallelism,
) {
    let rows = y.len() / columns;
    assert!(x.len() == rows * depth && y.len() == rows * columns && w.len() == depth * columns);
    let [row, column] = strides;
    assert!([row, column] == [1, depth] || [row, column] == [columns, 1], "w is row-major or its transpose is");
    // SAFETY: lengths and strides were checked above; `y` is borrowed mutably.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            depth,
            y.as_mut_ptr(),
            1,
            columns as isize,
            false,
            x.as_ptr(),
            1,
            depth as isize,
            w.as_ptr(),
            column as isize,
            row as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_right_in_both_directions() {
        let (n, out, inner) = (7, 13, 5);
        let w = filled(out * inner);
        for (columns, depth, strides) in [(out, inner, [1, inner]), (inner, out, [inner, 1])] {
            let (x, mut y) = (filled(n * depth), vec![f32::NAN; n * columns]);
            for parallelism in [Parallelism::None, Parallelism::Rayon(0)] {
                product(&x, &w, strides, depth, &mut y, columns, parallelism);
                for (i, &y) in y.iter().enumerate() {
                    let (row, column) = (i / columns, i % columns);
                    let sum: f32 =
                        (0..depth).map(|k| x[row * depth + k] * w[k * strides[0] + column * strides[1]]).sum();
                    assert!((y - sum).abs() < 1e-5, "{y} {sum}");
                }
            }
        }
    }
}
