//! The launchers' lists of parameters are those of the kernels, as the host compiler and the committed PTX have them, and no kernel
//! is without a launcher.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use dora_kernels::launch::KERNELS;
use dora_kernels::{Kernel, Kind};

use crate::support::device;

fn kernels_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels")
}

/// Every entry point that the launchers know, and its parameters, a letter each.
fn launched() -> BTreeMap<(&'static str, String), String> {
    let letter = |kind: Kind| match kind {
        Kind::Own | Kind::Of(_) => 'p',
        Kind::I32 => 'i',
        Kind::I64 => 'l',
        Kind::F32 => 'f',
    };
    let entries = |kernel: &'static Kernel| {
        let letters: String = kernel.parameters.iter().map(|(_, kind)| letter(*kind)).collect();
        kernel.elements.iter().map(move |e| ((kernel.module, format!("{}_{e}", kernel.name)), letters.clone()))
    };
    KERNELS.iter().flat_map(|kernel| entries(kernel)).collect()
}

#[test]
fn launchers_fit_the_sources() {
    let device = device(1);
    for ((module, entry), letters) in launched() {
        assert_eq!(device.parameters(module, &entry).unwrap(), letters, "{module}.cu: {entry}");
    }
}

/// Parameter names of the launchers are those of the sources, in order.
#[test]
fn names_of_parameters_are_those_of_the_sources() {
    for kernel in KERNELS {
        let path = kernels_folder().join(kernel.module).with_extension("cu");
        let source = fs::read_to_string(&path).unwrap();
        for element in kernel.elements {
            let head = format!("{}_{element}(", kernel.name);
            let at = source.find(&head).unwrap_or_else(|| panic!("{} has no {head}", path.display()));
            let list = source[at + head.len()..].split(')').next().unwrap();
            let name = |parameter: &str| parameter.rsplit([' ', '*']).next().unwrap().to_owned();
            let found: Vec<String> = list.split(',').map(name).collect();
            let expected: Vec<&str> = kernel.parameters.iter().map(|(name, _)| *name).collect();
            assert_eq!(found, expected, "{head}");
        }
    }
}

#[test]
fn launchers_fit_the_ptx_and_cover_it() {
    let mut found = BTreeMap::new();
    let modules: Vec<&str> = KERNELS.iter().map(|kernel| kernel.module).collect();
    for entry in fs::read_dir(kernels_folder().join("ptx")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let module = modules.iter().find(|module| **module == name).unwrap_or_else(|| panic!("{name} has no launcher"));
        for (entry, letters) in entries_of_ptx(&fs::read_to_string(&path).unwrap()) {
            found.insert((*module, entry), letters);
        }
    }
    // A pointer is a 64-bit integer there.
    let expected = launched().into_iter().map(|(entry, letters)| (entry, letters.replace('p', "l"))).collect();
    assert_eq!(found, expected);
}

/// Entry points of PTX text and their parameters, a letter each: l 64 bits, i 32 bits, f float.
fn entries_of_ptx(ptx: &str) -> Vec<(String, String)> {
    let entry = |head: &str| {
        let (name, rest) = head.split_once('(').unwrap();
        let list = rest.split_once(')').unwrap().0;
        let letters = list.split(',').map(|parameter| match parameter.split_whitespace().nth(1) {
            Some(".u64") => 'l',
            Some(".u32") => 'i',
            Some(".f32") => 'f',
            other => panic!("{name}: parameter of type {other:?}"),
        });
        (name.trim().to_owned(), letters.collect())
    };
    ptx.split(".visible .entry ").skip(1).map(entry).collect()
}
