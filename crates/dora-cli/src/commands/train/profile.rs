//! `--profile`: where the time of the steps went, by operation: share of the wall time, calls, GFLOP/s of its matrix products,
//! GB/s of its operands and results. On a device by kernel and shape of product, in time of the device, without the first of several
//! steps; all else is then when it idles.

use std::time::Instant;

use anyhow::Result;
use dora_tensor::Device;
use dora_tensor::profile::{Direction, Total, finish, start};
use serde_json::{Value, json};

/// A count that runs.
pub struct Profiling {
    device: Device,
    since: Instant,
}

impl Profiling {
    /// Begins counting.
    pub fn start(device: Device) -> Self {
        match device {
            Device::Cpu => start(),
            Device::Cuda(gpu) => gpu.start_profile(),
        }
        Profiling { device, since: Instant::now() }
    }

    /// Begins anew behind the first of several steps, in which a device loads its kernels.
    pub fn after_first_step(&mut self) {
        if self.device != Device::Cpu {
            *self = Profiling::start(self.device);
        }
    }

    /// Ends counting.
    pub fn finish(self) -> Result<Profile> {
        Profile::take(self.device, self.since.elapsed().as_secs_f64())
    }
}

/// What was counted in `seconds`.
pub struct Profile {
    seconds: f64,
    rows: Vec<(String, Total)>,
}

impl Profile {
    fn take(device: Device, seconds: f64) -> Result<Self> {
        let name = |op: &str, direction| match direction {
            Direction::Forward => format!("{op} forward"),
            Direction::Backward => format!("{op} backward"),
            Direction::Update => op.to_owned(),
        };
        let mut rows: Vec<_> = match device {
            Device::Cpu => finish().into_iter().map(|(op, direction, t)| (name(op, direction), t)).collect(),
            Device::Cuda(gpu) => gpu.finish_profile()?,
        };
        let rest = seconds - rows.iter().map(|(_, total)| total.seconds).sum::<f64>();
        rows.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
        rows.push(("all else".into(), Total { seconds: rest, ..Total::default() }));
        Ok(Profile { seconds, rows })
    }

    /// As text, a line an operation.
    pub fn table(&self) -> String {
        let width = self.rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut lines = vec![format!(
            "{:<width$} {:>6} {:>8} {:>9} {:>9} {:>8}",
            "operation", "share", "calls", "s", "GFLOP/s", "GB/s"
        )];
        let rate = |amount: u64, seconds: f64| match amount {
            0 => String::new(),
            _ => format!("{:.1}", amount as f64 / seconds / 1e9),
        };
        for (name, Total { calls, seconds, flops, bytes }) in &self.rows {
            let share = 100.0 * seconds / self.seconds;
            let (gflops, gbytes) = (rate(*flops, *seconds), rate(*bytes, *seconds));
            lines.push(format!("{name:<width$} {share:>5.1}% {calls:>8} {seconds:>9.3} {gflops:>9} {gbytes:>8}"));
        }
        let flops = self.rows.iter().map(|(_, total)| total.flops).sum::<u64>();
        lines.push(format!(
            "{:<width$} {:>6} {:>8} {:>9.3} {:>9}",
            "total",
            "",
            "",
            self.seconds,
            rate(flops, self.seconds)
        ));
        lines.join("\n")
    }

    /// As an object for `run.json`.
    pub fn json(&self) -> Value {
        let row = |(name, t): &(String, Total)| json!({"operation": name, "calls": t.calls, "seconds": t.seconds, "flops": t.flops, "bytes": t.bytes});
        json!({"seconds": self.seconds, "operations": self.rows.iter().map(row).collect::<Vec<_>>()})
    }
}
