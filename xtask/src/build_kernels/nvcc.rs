//! Finds nvcc 13.0: on the PATH, under `CUDA_HOME`, or, where neither has it, the packages that NVIDIA publishes on PyPI, installed into
//! `target/nvcc` at one fixed version. (Packages of different releases do not work together: ptxas refuses newer PTX.)

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

use super::sources::Source;

/// The release decides the version of the PTX, and with it the least driver that can read it.
const RELEASE: &str = "13.0";
const PACKAGES: [&str; 5] = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
];
/// Reads machine code of older releases too; there is none of 13.0 on PyPI.
const DISASSEMBLER: &str = "nvidia-cuda-nvdisasm==13.2.51";

/// The compiler and the programs beside it.
pub struct Toolkit {
    /// The compiler.
    pub nvcc: PathBuf,
    nvdisasm: PathBuf,
}

impl Toolkit {
    /// The toolkit of this machine, installed where there is none.
    pub fn find(root: &Path) -> Result<Self> {
        let on_path = env::var_os("PATH").into_iter().flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
        let homes = env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin"));
        let present = on_path.chain(homes).map(|folder| folder.join("nvcc")).filter(|nvcc| nvcc.is_file());
        let mut fitting = None;
        for nvcc in present {
            match release(&nvcc)? {
                found if found == RELEASE => fitting = fitting.or(Some(nvcc)),
                found => println!("{} is of release {found}, expected {RELEASE}: passed over", nvcc.display()),
            }
        }
        let nvcc = match fitting {
            Some(nvcc) => nvcc,
            None => install(root, &PACKAGES)?.join("bin/nvcc"),
        };
        let beside = nvcc.with_file_name("nvdisasm");
        let nvdisasm = if beside.is_file() { beside } else { install(root, &[DISASSEMBLER])?.join("bin/nvdisasm") };
        Ok(Toolkit { nvcc, nvdisasm })
    }

    /// PTX of a source, without the compiler's own comments.
    pub fn ptx(&self, source: &Source) -> Result<String> {
        let mut command = Command::new(&self.nvcc);
        command
            .args(["-std=c++17", "-O3", "-arch=compute_80", "-Werror", "all-warnings", "-ptx", "-o", "-"])
            .arg(&source.path);
        let output = run(&mut command)?;
        let ptx = String::from_utf8(output.stdout).context("PTX is text")?;
        Ok(ptx
            .lines()
            .filter(|line| !line.starts_with("//") && !line.is_empty())
            .map(|line| format!("{line}\n"))
            .collect())
    }

    /// Machine code of PTX; ptxas' report on each kernel.
    pub fn assemble(&self, ptx: &Path, architecture: u32, cubin: &Path) -> Result<String> {
        let mut command = Command::new(self.nvcc.with_file_name("ptxas"));
        command.args(["-v", &format!("-arch=sm_{architecture}"), "-o"]).arg(cubin).arg(ptx);
        let output = run(&mut command)?;
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// The instructions of machine code.
    pub fn disassemble(&self, cubin: &Path) -> Result<String> {
        let output = run(Command::new(&self.nvdisasm).arg("-c").arg(cubin))?;
        String::from_utf8(output.stdout).context("nvdisasm writes text")
    }
}

/// The release that an nvcc names, such as `13.0`.
fn release(nvcc: &Path) -> Result<String> {
    let output = run(Command::new(nvcc).arg("--version"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let release = text.split("release ").nth(1).and_then(|rest| rest.split(',').next());
    Ok(release.with_context(|| format!("{} --version names no release", nvcc.display()))?.to_owned())
}

/// The folder that the packages fill, below `target/nvcc`. Installed once, which needs the network.
fn install(root: &Path, packages: &[&str]) -> Result<PathBuf> {
    let environment = root.join("target/nvcc/venv");
    let pip = environment.join("bin/pip");
    if !pip.is_file() {
        println!(
            "no nvcc of release {RELEASE} on the PATH or under CUDA_HOME: installing NVIDIA's packages into target/nvcc"
        );
        run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
    }
    let installed = |libraries: &Path| -> Result<Option<PathBuf>> {
        for entry in libraries.read_dir().with_context(|| format!("reading {}", libraries.display()))? {
            let packages_folder = entry?.path().join("site-packages");
            if packages.iter().all(|package| packages_folder.join(record(package)).is_dir()) {
                return Ok(Some(packages_folder.join("nvidia/cu13")));
            }
        }
        Ok(None)
    };
    let libraries = environment.join("lib");
    if let Some(folder) = installed(&libraries)? {
        return Ok(folder);
    }
    run(Command::new(&pip).args(["install", "--quiet", "--disable-pip-version-check", "--no-deps"]).args(packages))?;
    installed(&libraries)?
        .with_context(|| format!("{} lacks a package after installing {}", libraries.display(), packages.join(" ")))
}

/// The folder that says that a package of a version is installed.
fn record(package: &str) -> String {
    format!("{}.dist-info", package.replace('-', "_").replace("==", "-"))
}

fn run(command: &mut Command) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("starting {program}"))?;
    if !output.status.success() {
        bail!("{program} failed ({}):\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(output)
}
