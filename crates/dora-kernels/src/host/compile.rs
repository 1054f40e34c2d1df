//! Builds `.cu` files with the system's C++ compiler: each becomes a shared object in `target/host-kernels`, named by a hash of
//! the sources, flags and compiler's name that went into it. Parallel builds are safe: each writes files of its own, and renames the
//! object.

use std::collections::hash_map::DefaultHasher;
use std::ffi::OsString;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Error, Result};

/// No contraction: an unfused multiply-add is a little less exact than the GPU's, never more.
const FLAGS: [&str; 8] = [
    "-std=c++17",
    "-O2",
    "-g1",
    "-fPIC",
    "-shared",
    "-ffp-contract=off",
    // Keeps the shared memory of inline functions in the module that uses it.
    "-fno-gnu-unique",
    // Makes reads of what was never written show; from g++ 12 and clang 8 on.
    "-ftrivial-auto-var-init=pattern",
];

/// The shared object of `source` (a `.cu` file below `kernels`).
pub(super) fn kernels(kernels: &Path, source: &Path) -> Result<PathBuf> {
    let text = read(source)?;
    let names = entry_names(&text);
    let entries: String = names.iter().map(|name| format!("    shim::entry<&{name}>(\"{name}\"),\n")).collect();
    let glue = format!(
        "#include \"{}\"\nextern \"C\" const shim::Entry shim_entries[] = {{\n{entries}    {{}},\n}};\n#include \"{}\"\n",
        source.display(),
        kernels.join("host/module.h").display(),
    );
    let stem = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    build(kernels, &stem, &glue, &text)
}

/// The shared object of the scheduler.
pub(super) fn runtime(kernels: &Path) -> Result<PathBuf> {
    build(kernels, "runtime", &format!("#include \"{}\"\n", kernels.join("host/runtime.cpp").display()), "")
}

/// Names of the kernels in a source: what stands before the parameters of each `extern "C" __global__`.
fn entry_names(source: &str) -> Vec<&str> {
    source.split("extern \"C\" __global__").skip(1).filter_map(head_name).collect()
}

fn head_name(head: &str) -> Option<&str> {
    let mut rest = head;
    loop {
        let open = rest.find('(')?;
        let word = rest[..open].split_whitespace().last()?;
        if word != "__launch_bounds__" {
            return Some(word);
        }
        rest = &rest[open + rest[open..].find(')')? + 1..];
    }
}

fn build(kernels: &Path, stem: &str, glue: &str, source: &str) -> Result<PathBuf> {
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| OsString::from("c++"));
    let mut hash = DefaultHasher::new();
    (&compiler, FLAGS, glue, source).hash(&mut hash);
    let mut headers: Vec<PathBuf> = list(&kernels.join("host"))?;
    headers.extend(list(kernels)?.into_iter().filter(|path| path.extension().is_some_and(|e| e == "cuh")));
    headers.sort();
    for header in headers.iter().filter(|path| path.is_file()) {
        read(header)?.hash(&mut hash);
    }
    let folder = folder();
    fs::create_dir_all(&folder).map_err(|e| Error::driver(format!("creating {}", folder.display()), e))?;
    let object = folder.join(format!("{stem}-{:016x}.so", hash.finish()));
    if object.exists() {
        return Ok(object);
    }
    let own = format!("{stem}-{:016x}.{}-{:?}", hash.finish(), std::process::id(), std::thread::current().id());
    let (unfinished, glue_file) = (folder.join(format!("{own}.so")), folder.join(format!("{own}.cpp")));
    fs::write(&glue_file, glue).map_err(|e| Error::driver(format!("writing {}", glue_file.display()), e))?;
    let output = Command::new(&compiler).args(FLAGS).arg(&glue_file).arg("-o").arg(&unfinished).output();
    let output = output.map_err(|e| Error::driver(format!("starting the C++ compiler {compiler:?} (set CXX)"), e))?;
    if !output.status.success() {
        return Err(Error::driver(
            format!("compiling {stem}.cu for the host"),
            String::from_utf8_lossy(&output.stderr),
        ));
    }
    let _ = fs::remove_file(&glue_file);
    fs::rename(&unfinished, &object).map_err(|e| Error::driver(format!("renaming {}", unfinished.display()), e))?;
    Ok(object)
}

/// `target/host-kernels`.
fn folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target")).join("host-kernels")
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(|e| Error::driver(format!("reading {}", folder.display()), e))?;
    Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| Error::driver(format!("reading {}", path.display()), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_found_by_name() {
        let source = "extern \"C\" __global__ void a_f32(int n) {}\n// a_bf16(\nextern \"C\" __global__ void \
                      __launch_bounds__(256, 2)\nb(const float* x) { f(x); }";
        assert_eq!(entry_names(source), ["a_f32", "b"]);
    }
}
