//! embedding.cu: rows of tables of every type, their gradient with repeated ids, and scattered rows. Copies are exact; sums of up to
//! 17 rows have tolerance 1e-6.

use dora_kernels::Element::{BF16, F16, F32, U32};
use dora_kernels::launch::{RowsById, embedding, embedding_backward, scatter_rows};

use crate::support::{Input, close, devices, room, values};

fn numbers(ids: &[u32]) -> Input {
    Input::new(U32, &ids.iter().map(|id| f64::from(*id)).collect::<Vec<_>>())
}

fn cases() -> Vec<(Vec<u32>, usize, usize)> {
    vec![
        (vec![3, 0, 3, 6, 3], 7, 5),
        (vec![0], 1, 1),
        (vec![], 3, 2),
        (vec![2; 17], 3, 13),
        (vec![1, 4, 1, 0], 5, 64),
        (vec![8, 2], 9, 2056),
    ]
}

#[test]
fn rows_are_those_of_the_table() {
    for device in devices() {
        for (ids, vocab, columns) in cases() {
            for (from, to) in [(F32, F32), (BF16, F32), (F16, F32), (F32, BF16), (BF16, BF16), (F16, BF16)] {
                let table = Input::random(from, 1, vocab * columns);
                let (ids_, table_) = (numbers(&ids).on(&device), table.on(&device));
                let mut y = room(&device, to, ids.len() * columns);
                embedding(device.as_ref(), ids_.view(), table_.view(), vocab, y.view_mut()).unwrap();
                let row = |id: &u32| table.values[*id as usize * columns..(*id as usize + 1) * columns].to_vec();
                close("embedding", &y, &ids.iter().flat_map(row).collect::<Vec<_>>(), 0.0);
            }
        }
    }
}

#[test]
fn gradients_add_up_by_id() {
    for device in devices() {
        for element in [F32, BF16] {
            for (ids, vocab, columns) in cases() {
                let rows = RowsById::new(&device, &ids).unwrap();
                let (dy, before) =
                    (Input::random(element, 1, ids.len() * columns), Input::random(F32, 2, vocab * columns));
                let (dy_, mut dtable) = (dy.on(&device), before.on(&device));
                embedding_backward(device.as_ref(), &rows, dy_.view(), vocab, dtable.view_mut()).unwrap();
                let mut want = before.values.clone();
                for (i, dy) in dy.values.iter().enumerate() {
                    want[ids[i / columns] as usize * columns + i % columns] += dy;
                }
                close("dtable", &dtable, &want, 1e-6);
            }
        }
    }
}

#[test]
fn scattered_rows_leave_the_others() {
    for device in devices() {
        for element in [F32, BF16] {
            for columns in [1, 7, 24] {
                let (x, before) = (Input::random(element, 1, 3 * columns), Input::random(element, 2, 5 * columns));
                let (x_, mut y, ids) = (x.on(&device), before.on(&device), numbers(&[4, 0, 2]).on(&device));
                scatter_rows(device.as_ref(), ids.view(), x_.view(), 5, y.view_mut()).unwrap();
                let mut want = before.values.clone();
                for (row, to) in x.values.chunks(columns).zip([4, 0, 2]) {
                    want[to * columns..(to + 1) * columns].copy_from_slice(row);
                }
                close("scatter", &y, &want, 0.0);
            }
        }
    }
}

#[test]
fn an_id_beyond_the_table_reads_nan_and_writes_nothing() {
    let device = &devices()[0];
    let (table, ids) = (Input::random(F32, 1, 12).on(device), numbers(&[3, 1]).on(device));
    let mut y = room(device, F32, 8);
    embedding(device.as_ref(), ids.view(), table.view(), 3, y.view_mut()).unwrap();
    let nan: Vec<bool> = values(&y).iter().map(|y| y.is_nan()).collect();
    assert_eq!(nan, [[true; 4], [false; 4]].concat());
    // The gradient of an id beyond the table is no row's, whatever it is.
    let (rows, mut dtable) = (RowsById::new(device, &[1, 70_000]).unwrap(), Input::new(F32, &[0.0; 12]).on(device));
    embedding_backward(device.as_ref(), &rows, y.view(), 3, dtable.view_mut()).unwrap();
    assert!(values(&dtable)[4..8].iter().all(|x| x.is_nan()), "row 1 has the gradient of row 0 of y");
    assert_eq!(values(&dtable)[8..], [0.0; 4]);
    let mut small = Input::random(F32, 2, 12).on(device);
    let before = values(&small);
    scatter_rows(device.as_ref(), ids.view(), y.view(), 3, small.view_mut()).unwrap();
    assert_eq!(values(&small)[8..], before[8..]);
    assert_eq!(values(&small)[4..8], values(&y)[4..]);
}
