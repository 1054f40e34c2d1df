//! Registers, shared memory, stack and spills of every kernel, as ptxas reports them, and the budgets that they have to keep.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// What a kernel may use; kernels that are not named have `DEFAULT`. Registers bound how many warps live on a multiprocessor of
/// 65,536: with 64 a thread there are 32 of at most 48 to 64, enough to keep memory busy. Products on tensor cores hold their sums
/// in registers, and need few warps.
const BUDGETS: [(&str, Budget); 7] = [
    ("attention_dkv_128", Budget { registers: 248, shared: 1024 }),
    ("attention_forward_128", Budget { registers: 216, shared: 1024 }),
    ("attention_", Budget { registers: 184, shared: 1024 }),
    ("dora_backward_bf16", Budget { registers: 128, shared: 1024 }),
    ("low_rank_compose_bf16", Budget { registers: 128, shared: 1024 }),
    ("low_rank_project_bf16", Budget { registers: 128, shared: 1024 }),
    ("dora_norms_", Budget { registers: 128, shared: 16 * 1024 }),
];
const DEFAULT: Budget = Budget { registers: 64, shared: 16 * 1024 };

/// Kernels whose blocks of 1,024 threads have to have a multiprocessor of 2,048 to themselves, so that the rows in work fit the L2
/// cache: with more than 32 registers a thread, two of them exceed its 65,536.
const ALONE: [&str; 1] = ["cross_entropy_bf16"];

#[derive(Clone, Copy)]
struct Budget {
    /// A thread.
    registers: u32,
    /// Bytes of static shared memory a block.
    shared: u32,
}

/// What one kernel uses on one generation of cards.
#[derive(Debug, Clone, PartialEq)]
pub struct Usage {
    module: String,
    kernel: String,
    architecture: u32,
    registers: u32,
    shared: u32,
    stack: u32,
    spilled: u32,
}

/// Reads what `ptxas -v` says of a module.
pub fn parse(report: &str, module: &str, architecture: u32) -> Result<Vec<Usage>> {
    let mut found: Vec<Usage> = Vec::new();
    for line in report.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            let kernel = rest.split('\'').next().unwrap_or_default().to_owned();
            let module = module.to_owned();
            found.push(Usage { module, kernel, architecture, registers: 0, shared: 0, stack: 0, spilled: 0 });
        }
        let Some(last) = found.last_mut() else { continue };
        if line.contains("bytes stack frame") {
            last.stack = number_before(line, " bytes stack frame").context("a stack frame has a size")?;
            let (stores, loads) =
                (number_before(line, " bytes spill stores"), number_before(line, " bytes spill loads"));
            last.spilled = stores.zip(loads).map(|(a, b)| a + b).with_context(|| format!("no spills in {line:?}"))?;
        }
        if let Some(registers) = number_before(line, " registers") {
            last.registers = registers;
            last.shared = number_before(line, " bytes smem").unwrap_or(0);
        }
    }
    if let Some(silent) = found.iter().find(|usage| usage.registers == 0) {
        bail!("ptxas says nothing of the registers of {}", silent.kernel);
    }
    Ok(found)
}

/// A line a kernel: registers by generation, and the most of everything else.
pub fn table(used: &[Usage]) -> String {
    let mut kernels: BTreeMap<(&str, &str), Vec<&Usage>> = BTreeMap::new();
    for usage in used {
        kernels.entry((&usage.module, &usage.kernel)).or_default().push(usage);
    }
    let heads: Vec<String> = super::ARCHITECTURES.iter().map(|a| format!("sm_{a}")).collect();
    let mut lines = vec![
        format!("| kernel | {} | static shared, B | stack, B | spilled, B |", heads.join(" | ")),
        format!("|---|{}", "---:|".repeat(heads.len() + 3)),
    ];
    for ((_, kernel), usages) in kernels {
        let registers: Vec<String> = usages.iter().map(|u| u.registers.to_string()).collect();
        let most = |of: fn(&Usage) -> u32| usages.iter().map(|u| of(u)).max().unwrap_or(0);
        let (shared, stack, spilled) = (most(|u| u.shared), most(|u| u.stack), most(|u| u.spilled));
        lines.push(format!("| `{kernel}` | {} | {shared} | {stack} | {spilled} |", registers.join(" | ")));
    }
    lines.join("\n")
}

/// Puts the table between its marks in a text.
pub fn write_into(path: &Path, table: &str) -> Result<()> {
    const MARKS: [&str; 2] =
        ["<!-- resources: written by cargo xtask build-kernels -->\n", "\n<!-- end of resources -->"];
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let parts = text.split_once(MARKS[0]).and_then(|(before, rest)| Some((before, rest.split_once(MARKS[1])?.1)));
    let (before, after) = parts.with_context(|| format!("{} lacks the marks of the table", path.display()))?;
    fs::write(path, [before, MARKS[0], table, MARKS[1], after].concat())
        .with_context(|| format!("writing {}", path.display()))
}

/// Every spill, stack frame and exceeded budget.
pub fn faults(used: &[Usage]) -> Vec<String> {
    used.iter().filter_map(fault).collect()
}

fn fault(usage: &Usage) -> Option<String> {
    let Usage { kernel, architecture, registers, shared, stack, spilled, .. } = usage;
    let named = BUDGETS.iter().find(|(name, _)| kernel.starts_with(name));
    let budget = named.map_or(DEFAULT, |(_, budget)| *budget);
    let what = if *spilled > 0 {
        format!("spills {spilled} bytes, expected none")
    } else if *stack > 0 {
        format!("has a stack of {stack} bytes, expected none")
    } else if *registers > budget.registers {
        format!("uses {registers} registers, expected at most {}", budget.registers)
    } else if *registers <= 32 && ALONE.contains(&kernel.as_str()) {
        format!("uses {registers} registers, expected more than 32, so that one block fills a multiprocessor")
    } else if *shared > budget.shared {
        format!("uses {shared} bytes of static shared memory, expected at most {}", budget.shared)
    } else {
        return None;
    };
    Some(format!("{kernel} on sm_{architecture}: {what}"))
}

fn number_before(line: &str, unit: &str) -> Option<u32> {
    let before = line.split(unit).next().filter(|before| before.len() < line.len())?;
    before.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "ptxas info    : Compiling entry function 'a_f32' for 'sm_80'
ptxas info    : Function properties for a_f32
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 128 bytes smem, 404 bytes cmem[0]
ptxas info    : Compiling entry function 'b_f32' for 'sm_80'
    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers, 392 bytes cmem[0]
";

    #[test]
    fn a_report_is_read_and_spills_are_faults() {
        let used = parse(REPORT, "m", 80).unwrap();
        let numbers: Vec<_> = used.iter().map(|u| (u.registers, u.shared, u.stack, u.spilled)).collect();
        assert_eq!(numbers, [(32, 128, 0, 0), (255, 0, 16, 12)]);
        assert_eq!(faults(&used), ["b_f32 on sm_80: spills 12 bytes, expected none"]);
        let fat = Usage { stack: 0, spilled: 0, ..used[1].clone() };
        assert_eq!(fault(&fat).unwrap(), "b_f32 on sm_80: uses 255 registers, expected at most 64");
        let small = Usage { kernel: ALONE[0].to_owned(), registers: 32, ..fat };
        assert!(fault(&small).is_some_and(|text| text.contains("expected more than 32")));
        assert!(fault(&Usage { registers: 33, ..small }).is_none());
        assert!(parse(&REPORT[..REPORT.len() - 66], "m", 80).is_err());
    }

    #[test]
    fn the_table_replaces_the_one_before() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let marked = "a\n<!-- resources: written by cargo xtask build-kernels -->\nold\n<!-- end of resources -->\nb\n";
        fs::write(file.path(), marked).unwrap();
        write_into(file.path(), "new").unwrap();
        assert_eq!(fs::read_to_string(file.path()).unwrap(), marked.replace("old", "new"));
        fs::write(file.path(), "no marks").unwrap();
        assert!(write_into(file.path(), "new").is_err());
    }
}
