//! Operations: runs `cargo bench` and reads the estimates that criterion leaves.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::THREADS;

/// What `--only` calls it.
pub const NAME: &str = "ops";

/// An operation.
#[derive(Debug, PartialEq)]
pub struct Operation {
    /// Name with its shape, and the pass.
    pub name: String,
    /// Median time of a call in seconds.
    pub seconds: f64,
    /// FLOPs of its matrix products.
    pub flops: f64,
    /// Bytes of operands and results.
    pub bytes: f64,
}

/// Measures all operations; criterion's own lines go to stderr.
pub fn run(root: &Path, dir: &Path) -> Result<Vec<Operation>> {
    let home = dir.join("criterion");
    if home.exists() {
        std::fs::remove_dir_all(&home)?;
    }
    let mut command = Command::new(env!("CARGO"));
    command.args(["bench", "--quiet", "--locked", "-p", "dora-benches", "--bench", "ops"]).current_dir(root);
    command.env("CRITERION_HOME", &home).env("RAYON_NUM_THREADS", THREADS.to_string()).stdout(std::io::stderr());
    let status = command.status().context("starting cargo bench")?;
    ensure!(status.success(), "cargo bench failed ({status})");
    let mut operations = Vec::new();
    for group in std::fs::read_dir(&home)? {
        for pass in std::fs::read_dir(group?.path())? {
            let new = pass?.path().join("new");
            if new.exists() {
                let read = |name| -> Result<Value> { Ok(serde_json::from_slice(&std::fs::read(new.join(name))?)?) };
                operations.push(parse(&read("benchmark.json")?, &read("estimates.json")?)?);
            }
        }
    }
    operations.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(operations)
}

/// An operation from what criterion knows of it and its estimates.
fn parse(benchmark: &Value, estimates: &Value) -> Result<Operation> {
    let text = |key: &str| benchmark[key].as_str().with_context(|| format!("criterion gives no {key}"));
    let nanoseconds = estimates["median"]["point_estimate"].as_f64().context("criterion gives no median")?;
    let throughput = &benchmark["throughput"];
    let both = &throughput["ElementsAndBytes"];
    let (flops, bytes) = match both.is_null() {
        true => (Some(0.0), throughput["Bytes"].as_f64()),
        false => (both["elements"].as_f64(), both["bytes"].as_f64()),
    };
    Ok(Operation {
        name: format!("{} {}", text("group_id")?, text("function_id")?),
        seconds: nanoseconds / 1e9,
        flops: flops.context("criterion gives no FLOPs")?,
        bytes: bytes.context("criterion gives no bytes")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn criterion_is_understood() {
        let estimates = json!({"median": {"point_estimate": 2e6}});
        let of = |throughput: Value| {
            parse(&json!({"group_id": "lora 3x5", "function_id": "forward", "throughput": throughput}), &estimates)
        };
        let name = "lora 3x5 forward".to_owned();
        let found = of(json!({"ElementsAndBytes": {"elements": 30, "bytes": 12}})).unwrap();
        assert_eq!(found, Operation { name: name.clone(), seconds: 2e-3, flops: 30.0, bytes: 12.0 });
        assert_eq!(of(json!({"Bytes": 12})).unwrap(), Operation { name, seconds: 2e-3, flops: 0.0, bytes: 12.0 });
        assert!(of(Value::Null).is_err());
    }
}
