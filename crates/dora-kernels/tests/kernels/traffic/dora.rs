//! DoRA's kernels: over a batch, and over a weight.

use dora_kernels::launch::{
    DoraBackward, DoraColumns, DoraComposeDropout, DoraLayers, DoraMagnitude, DoraNorms, DoraOutput, DoraProjection,
    LowRankBase, LowRankCompose, LowRankFactor, LowRankProject, dora_backward, dora_compose_dropout, dora_gram,
    dora_magnitude, dora_merge, dora_norms, dora_row_norms_squared, dora_strips, low_rank_compose, low_rank_project,
};
use dora_kernels::{Buffer, Element};

use super::{Row, Table};
use crate::support::Input;

const F32: Element = Element::F32;
const ROWS: usize = 256;
const WIDTH: usize = 512;
const RANK: usize = 32;
const N: usize = ROWS * WIDTH;
const S: f32 = 1.75;

/// Magnitudes and norms of about 1, and b.
struct Vectors([Buffer; 3]);

impl Vectors {
    fn new(table: &Table) -> Self {
        let near_one = |stream| {
            let x = Input::random(F32, stream, WIDTH).values;
            Input::new(F32, &x.iter().map(|x| 2.0 + 0.4 * x).collect::<Vec<_>>()).on(&table.device)
        };
        Vectors([near_one(1), near_one(2), table.input(F32, 3, WIDTH)])
    }

    fn columns(&self) -> DoraColumns<'_> {
        let [m, n, bias] = &self.0;
        DoraColumns { m: m.view(), n: n.view(), bias: Some(bias.view()) }
    }
}

pub(super) fn rows(table: &mut Table) {
    let vectors = Vectors::new(table);
    let columns = vectors.columns();
    for element in [F32, Element::BF16] {
        of_batch(table, columns, element);
        of_rank(table, columns, element);
        of_weight(table, element);
    }
    let (mut w, m) = (table.input(F32, 5, N), table.input(F32, 6, ROWS));
    let row = Row { kernel: "dora_merge_f32".into(), of: "w", elements: N, least: 8.0, because: "" };
    table.row(row, |d| dora_merge(d, w.view_mut(), m.view()));
}

fn of_batch(table: &mut Table, columns: DoraColumns<'_>, element: Element) {
    let [a, b] = [1, 2].map(|stream| table.input(element, stream, N));
    let (mut y, mut z) = (table.room(element, N), table.input(element, 3, N));
    let mut partial = table.room(F32, dora_strips(ROWS) * WIDTH);
    let row = |name: &str, of, elements: f64| {
        let least = elements * element.size() as f64;
        Row { kernel: format!("{name}_{element}"), of, elements: N, least, because: "" }
    };
    let scaling = S;
    table.row(row("dora_compose_dropout", "y", 5.0), |d| {
        let (base, low, z, y) = (Some(a.view()), b.view(), z.view_mut(), y.view_mut());
        dora_compose_dropout(d, DoraComposeDropout { base, z, low, scaling, columns, y })
    });
    let rank = 16;
    let (p, mut h) = (table.input(F32, 6, WIDTH * rank), table.room(element, ROWS * rank));
    table.row(row("dora_backward", "dy", 3.0), |d| {
        let (dy, value, dz, partial) = (Some(a.view()), b.view(), y.view_mut(), partial.view_mut());
        let h = Some(DoraProjection { b: p.view(), rank, scaling, dh: h.view_mut() });
        dora_backward(d, DoraBackward { dy, value, columns, dz, rest: None, partial, h })
    });
    // No magnitude vanishes, as in training: beside the strips two numbers a column are all that is read.
    let (h, w, b_) = (table.input(element, 7, ROWS * RANK), &a, table.input(F32, 8, WIDTH * RANK));
    let x = table.input(element, 9, ROWS * ROWS);
    let strips = 64;
    let (partial, mut dm) = (table.input(F32, 4, strips * WIDTH), table.room(F32, WIDTH));
    let kernel = format!("dora_magnitude_{element}");
    let row = Row { kernel, of: "partial", elements: strips * WIDTH, least: 4.0, because: "" };
    table.row(row, |d| {
        let (dy, x, h, w, b, partial) = (b.view(), x.view(), h.view(), w.view(), b_.view(), partial.view());
        let output = Some(DoraOutput { dy, x, h, w, b, scaling });
        dora_magnitude(d, DoraMagnitude { partial, columns, output, dm: dm.view_mut() })
    });
}

/// Products of the low-rank side. f32 takes no more than 16 for what it is there for; its traffic is that of bf16 but for the type.
fn of_rank(table: &mut Table, columns: DoraColumns<'_>, element: Element) {
    let (size, rank, scaling) = (element.size() as f64, 16, S);
    let (x, p) = (table.input(element, 1, N), table.input(F32, 2, WIDTH * rank));
    let factor = LowRankFactor::B(p.view());
    let mut h = table.room(element, ROWS * rank);
    let share = rank as f64 / WIDTH as f64;
    let row = |name: &str, of, least| Row { kernel: format!("{name}_{element}"), of, elements: N, least, because: "" };
    table.row(row("low_rank_project", "x", size * (1.0 + share)), |d| {
        low_rank_project(d, LowRankProject { x: x.view(), factor, rank, scaling, h: h.view_mut() })
    });
    let mut y = table.input(element, 3, N);
    table.row(row("low_rank_compose", "y", 2.0 * size), |d| {
        let (z, h, columns, y) = (LowRankBase::Own, h.view(), Some(columns), y.view_mut());
        low_rank_compose(d, LowRankCompose { z, h, factor, rank, scaling, columns, y })
    });
}

fn of_weight(table: &mut Table, element: Element) {
    // Rows as long as those of a model, beside which the vectors are little.
    const OUT: usize = 64;
    const INNER: usize = 2048;
    const RANK: usize = 16;
    let (w, mut norms) = (table.input(element, 1, OUT * INNER), table.room(F32, OUT));
    let least = element.size() as f64;
    let kernel = format!("dora_row_norms_squared_{element}");
    let row = Row { kernel, of: "w", elements: OUT * INNER, least, because: "" };
    table.row(row, |d| dora_row_norms_squared(d, w.view(), norms.view_mut()));
    let (a, b) = (table.input(F32, 3, RANK * INNER), table.input(F32, 3, OUT * RANK));
    // Large beside the other terms, so that none cancels.
    let base = Input::new(F32, &[1e5; OUT]).on(&table.device);
    let (base, n) = (base.view(), norms.view_mut());
    let layer = DoraNorms { base, w: w.view(), a: a.view(), b: b.view(), scaling: S, n };
    let mut layers = DoraLayers::new(&table.device, vec![layer]).unwrap();
    let row = Row {
        kernel: format!("dora_gram_{element}"),
        of: "A",
        elements: RANK * INNER,
        least: 4.0 + 4.0 * RANK as f64 / INNER as f64,
        because: "",
    };
    table.row(row, |d| dora_gram(d, &mut layers));
    let kernel = format!("dora_norms_{element}");
    let least = element.size() as f64 + 4.0 * (RANK + 2) as f64 / INNER as f64;
    let row = Row { kernel, of: "W", elements: OUT * INNER, least, because: "" };
    table.row(row, |d| dora_norms(d, &mut layers));
}
