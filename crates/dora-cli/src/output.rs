//! Files that a command writes beside its result: refused before any work where they cannot be written, or where something
//! else is there that a command reads.

use std::path::{Path, PathBuf};

use anyhow::Result;
use dora_models::checkpoint::ensure_writable_dir;

use crate::failure::Usage;

/// Checks that option `name` names a file that may be written: no folder, device or the like, and none of `inputs`, which are
/// files and folders that the command reads.
pub fn check_file(name: &str, file: &Path, inputs: &[PathBuf]) -> Result<()> {
    let shown = file.display();
    if file.is_dir() || file.file_name().is_none() || file.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return Err(Usage(format!("{name} {shown} is a folder, expected a file")).into());
    }
    if file.exists() && !file.is_file() {
        return Err(Usage(format!("{name} {shown} is a device or the like, expected a file")).into());
    }
    let folder = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (target, inside) = (file.canonicalize().ok(), folder.canonicalize().ok());
    for input in inputs {
        let Ok(read) = input.canonicalize() else { continue };
        if target.as_ref() == Some(&read) {
            return Err(Usage(format!("{name} {shown} is also read, expected a file of its own")).into());
        }
        if read.is_dir() && inside.as_ref() == Some(&read) && target.is_some() {
            let input = input.display();
            return Err(
                Usage(format!("{name} {shown} is a file of {input}, which is read; expected a new file")).into()
            );
        }
    }
    Ok(ensure_writable_dir(folder).map_err(|e| Usage(format!("{name}: {e}")))?)
}
