//! Folders that are right, and every way in which one can be wrong.

mod reading;
mod writing;

use super::*;
use dora_tensor::DType;
use std::fs;
use tempfile::TempDir;

/// Bytes of a safetensors file of that header, byte for byte.
fn file_of(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// A folder of those files.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

/// The message of an error, without the folder's own path.
fn message<T>(dir: &TempDir, result: Result<T>) -> String {
    let text = result.err().unwrap().to_string();
    text.replace(&format!("{}/", dir.path().display()), "").replace(&dir.path().display().to_string(), "DIR")
}

/// Small integers, which every type holds exactly.
fn numbers(shape: &[usize], from: i32, dtype: DType) -> Tensor {
    let n = shape.iter().product::<usize>() as i32;
    Tensor::from_vec((from..from + n).map(|x| x as f32).collect(), shape).unwrap().to_dtype(dtype)
}

/// Names of the files in a folder, sorted.
fn listing(dir: &TempDir) -> Vec<String> {
    let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// Asserts that two tensors agree in type, shape and every bit.
fn assert_same(found: &Tensor, expected: &Tensor) {
    assert_eq!((found.dtype(), found.shape()), (expected.dtype(), expected.shape()));
    assert_eq!(found.to_bytes(), expected.to_bytes());
}
