//! What every kernel moves and computes for each element, counted by the host driver, against the least that its formula needs: the
//! table of `kernels/README.md`. Operands that many blocks read are counted apart, as read from a cache, and are no part of the
//! least. A kernel above 1.1 times the least says why. To write the table anew:
//! `cargo test --release -p dora-kernels --test kernels -- --ignored write_the_table`.

mod attention;
mod dora;
mod flat;
mod nf4;
mod rows;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dora_kernels::host::{Counters, HostDriver};
use dora_kernels::launch::KERNELS;
use dora_kernels::{Buffer, Driver, Element, Result};

use crate::support::{Input, device, room};

/// Most that a kernel may move, in multiples of the least, without saying why.
const MOST: f64 = 1.1;
const MARKS: [&str; 2] = ["<!-- traffic: counted by tests/kernels/traffic -->\n", "<!-- end of traffic -->"];
const HEAD: &str = "| kernel | element of | least, B | moved, B | from cache, B | FLOPs | above 1.1 times the least, because |\n\
                    |---|---|---:|---:|---:|---:|---|\n";

/// The rows so far, and the device that counts.
struct Table {
    host: Arc<HostDriver>,
    device: Arc<dyn Driver>,
    text: String,
    kernels: BTreeSet<String>,
}

/// A row: an entry point, the operand whose elements count, how many it has, and the least bytes for each.
struct Row<'a> {
    kernel: String,
    of: &'a str,
    elements: usize,
    least: f64,
    /// Why it moves more than 1.1 times the least; empty where it does not.
    because: &'a str,
}

impl Table {
    fn new() -> Self {
        let host = device(1);
        Table { device: host.clone(), host, text: String::new(), kernels: BTreeSet::new() }
    }

    fn input(&self, element: Element, stream: u64, len: usize) -> Buffer {
        Input::random(element, stream, len).on(&self.device)
    }

    fn ids(&self, ids: &[usize]) -> Buffer {
        Input::new(Element::U32, &ids.iter().map(|id| *id as f64).collect::<Vec<_>>()).on(&self.device)
    }

    fn room(&self, element: Element, len: usize) -> Buffer {
        room(&self.device, element, len)
    }

    fn counted(&self, kernel: &str) -> Counters {
        self.host.counters().get(kernel).map_or(Counters::default(), |(_, counters)| *counters)
    }

    /// Runs a launch, and adds the row of what one kernel counted in it.
    fn row(&mut self, row: Row<'_>, launch: impl FnOnce(&dyn Driver) -> Result<()>) {
        let before = self.counted(&row.kernel);
        launch(self.device.as_ref()).unwrap();
        let after = self.counted(&row.kernel);
        let Row { kernel, of, elements, least, because } = row;
        let each = |count: fn(&Counters) -> u64| (count(&after) - count(&before)) as f64 / elements as f64;
        let moved = each(|c| c.bytes_loaded + c.bytes_stored);
        assert!(
            moved >= 0.999 * least,
            "{kernel}: {moved:.3} B an element of {of}, less than {least}: not all is counted"
        );
        let above = moved > MOST * least;
        assert_eq!(
            above,
            !because.is_empty(),
            "{kernel}: {moved:.3} B an element of {of}, least {least:.3}: {because:?}"
        );
        let (reused, flops) = (each(|c| c.bytes_reused), each(|c| c.flops));
        self.text +=
            &format!("| `{kernel}` | {of} | {least:.2} | {moved:.2} | {reused:.2} | {flops:.1} | {because} |\n");
        self.kernels.insert(kernel);
    }
}

/// The whole table.
fn counted() -> String {
    let mut table = Table::new();
    flat::rows(&mut table);
    rows::rows(&mut table);
    dora::rows(&mut table);
    nf4::rows(&mut table);
    attention::rows(&mut table);
    let entries = KERNELS.iter().flat_map(|kernel| kernel.elements.iter().map(|e| format!("{}_{e}", kernel.name)));
    let all: BTreeSet<String> = entries.collect();
    let missing: Vec<&String> = all.symmetric_difference(&table.kernels).collect();
    assert!(missing.is_empty(), "kernels without a row, or rows without a kernel: {missing:?}");
    HEAD.to_owned() + &table.text
}

fn readme() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels/README.md")
}

/// What stands before the table, the table, and what stands behind it.
fn parts(text: &str) -> [&str; 3] {
    let (before, rest) = text.split_once(MARKS[0]).expect("kernels/README.md has the marks of the table");
    let (table, after) = rest.split_once(MARKS[1]).expect("the table has an end");
    [before, table, after]
}

#[test]
fn the_table_is_what_is_counted() {
    let text = std::fs::read_to_string(readme()).unwrap();
    let (counted, written) = (counted(), parts(&text)[1]);
    let other = counted.lines().zip(written.lines()).find(|(counted, written)| counted != written);
    assert!(other.is_none(), "kernels/README.md has another row than is counted: {other:?}");
    assert_eq!(counted.lines().count(), written.lines().count(), "rows of the table in kernels/README.md");
}

#[test]
#[ignore = "writes the table into kernels/README.md"]
fn write_the_table() {
    let text = std::fs::read_to_string(readme()).unwrap();
    let [before, _, after] = parts(&text);
    std::fs::write(readme(), [before, MARKS[0], &counted(), MARKS[1], after].concat()).unwrap();
}
