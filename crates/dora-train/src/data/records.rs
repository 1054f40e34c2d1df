//! Bytes of a data file to its records, each with the line on which it starts. Lines and columns count from 1, columns in
//! bytes.

use std::fs;
use std::path::{Path, PathBuf};

use dora_models::json;
use serde::de::IgnoredAny;
use serde_json::{Deserializer, Map, Value};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Calls `f(path, line, record)` for every record of the files, in order, and gives the SHA-256 of their bytes, one after another,
/// in hexadecimal.
pub(super) fn each_of(
    files: &[PathBuf],
    mut f: impl FnMut(&Path, usize, Map<String, Value>) -> Result<()>,
) -> Result<String> {
    let mut hash = Sha256::new();
    for path in files {
        let bytes = fs::read(path).map_err(Error::io("read", path))?;
        hash.update(&bytes);
        each(&bytes, path, |line, record| f(path, line, record))?;
    }
    Ok(format!("{:x}", hash.finalize()))
}

/// Calls `f(line, record)` for every record of a file, in order; a file without records is an error.
pub(super) fn each(
    bytes: &[u8],
    path: &Path,
    mut f: impl FnMut(usize, Map<String, Value>) -> Result<()>,
) -> Result<()> {
    let mut reader = Reader { bytes, path, at: 0, line: 1, line_start: 0 };
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return Err(reader.error("found a byte order mark, expected UTF-8 without one (remove its three bytes)"));
    }
    if let Err(e) = std::str::from_utf8(bytes) {
        reader.advance(e.valid_up_to());
        return Err(reader.error("found bytes that are not UTF-8, expected UTF-8 text"));
    }
    let mut count = 0;
    let mut counted = |line, record| {
        count += 1;
        f(line, record)
    };
    match reader.skip_space() {
        None => {}
        Some(b'[') => reader.array(&mut counted)?,
        Some(_) => reader.lines(&mut counted)?,
    }
    match count {
        0 => Err(Error::Data { paths: vec![path.into()], problem: "found no record, expected at least one".into() }),
        _ => Ok(()),
    }
}

/// A place in a file.
struct Reader<'a> {
    bytes: &'a [u8],
    path: &'a Path,
    at: usize,
    line: usize,
    line_start: usize,
}

impl Reader<'_> {
    /// One object a line.
    fn lines(&mut self, f: &mut impl FnMut(usize, Map<String, Value>) -> Result<()>) -> Result<()> {
        while self.skip_space().is_some() {
            let rest = &self.bytes[self.at..];
            let length = rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
            let record = self.object(length).map_err(|e| match e {
                Error::Syntax { path, line, column, found } if found.starts_with("EOF") => {
                    let found = format!("{found}, expected a whole JSON object on each line");
                    Error::Syntax { path, line, column, found }
                }
                e => e,
            })?;
            f(self.line, record)?;
            self.advance(self.at + length);
        }
        Ok(())
    }

    /// One array of objects.
    fn array(&mut self, f: &mut impl FnMut(usize, Map<String, Value>) -> Result<()>) -> Result<()> {
        self.advance(self.at + 1);
        let mut next = self.skip_space();
        while next != Some(b']') {
            let rest = &self.bytes[self.at..];
            let mut values = Deserializer::from_slice(rest).into_iter::<IgnoredAny>();
            // What does not parse here fails in `object` again, which says where.
            let length = if let Some(Ok(_)) = values.next() { values.byte_offset() } else { rest.len() };
            f(self.line, self.object(length)?)?;
            self.advance(self.at + length);
            next = self.skip_space();
            match next {
                Some(b',') => {
                    self.advance(self.at + 1);
                    self.skip_space();
                }
                Some(b']') => {}
                _ => return Err(self.error("expected `,` or `]`")),
            }
        }
        self.advance(self.at + 1);
        match self.skip_space() {
            None => Ok(()),
            Some(_) => Err(self.error("found characters after the array, expected the end of the file")),
        }
    }

    /// The object in the next `length` bytes.
    fn object(&self, length: usize) -> Result<Map<String, Value>> {
        json::object(&self.bytes[self.at..self.at + length], self.path).map_err(|e| self.syntax(e))
    }

    /// Moves on to the next byte that is not white space, which it returns.
    fn skip_space(&mut self) -> Option<u8> {
        let space = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n');
        let length = self.bytes[self.at..].iter().take_while(|b| space(b)).count();
        self.advance(self.at + length);
        self.bytes.get(self.at).copied()
    }

    fn advance(&mut self, to: usize) {
        for at in self.at..to {
            if self.bytes[at] == b'\n' {
                self.line += 1;
                self.line_start = at + 1;
            }
        }
        self.at = to;
    }

    /// An error here.
    fn error(&self, found: &str) -> Error {
        let column = self.at - self.line_start + 1;
        Error::Syntax { path: self.path.into(), line: self.line, column, found: found.into() }
    }

    /// An error of a parser that started here.
    fn syntax(&self, error: dora_models::Error) -> Error {
        match error {
            dora_models::Error::Json { path, line, column, found } => {
                let before = if line == 1 { self.at - self.line_start } else { 0 };
                Error::Syntax { path, line: self.line + line - 1, column: before + column.max(1), found }
            }
            other => other.into(),
        }
    }
}
