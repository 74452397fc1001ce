//! Files that a policy names.

use std::hash::{DefaultHasher, Hasher as _};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::yaml::MAX_TEXT;

/// A file that a policy names, and what it said when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFile {
    /// Where it is, or should be.
    pub path: PathBuf,
    /// Stands for its text; `None` when that could not be read.
    pub digest: Option<u64>,
}

impl NamedFile {
    /// The file as it is now.
    pub fn look(path: &Path) -> Self {
        NamedFile::of(path, from_disk(path).ok().as_deref())
    }

    pub(crate) fn of(path: &Path, text: Option<&str>) -> Self {
        let digest = text.map(|t| {
            let mut hasher = DefaultHasher::new();
            hasher.write(t.as_bytes());
            hasher.finish()
        });
        NamedFile { path: path.to_owned(), digest }
    }
}

/// How files are read: from the disk, or not at all.
pub(crate) type Load = fn(&Path) -> Result<String, String>;

/// Reads a regular file: a pipe might never end.
pub(crate) fn from_disk(path: &Path) -> Result<String, String> {
    if !std::fs::metadata(path).map_err(|e| e.to_string())?.is_file() {
        return Err("it is not a regular file".into());
    }
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    file.take(MAX_TEXT as u64 + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() > MAX_TEXT {
        return Err(format!("it is longer than {} MiB", MAX_TEXT >> 20));
    }
    utf8(bytes)
}

/// The text in `bytes`.
pub(crate) fn utf8(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|e| {
        let good = e.utf8_error().valid_up_to();
        let line = e.as_bytes()[..good].iter().filter(|b| **b == b'\n').count() + 1;
        format!("it is not UTF-8: byte {} in line {line}", good + 1)
    })
}

/// The entries in a file and where each begins: one a line, without the comment that follows `#` or `;`.
pub(crate) fn entries(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let blank = |c: char| c.is_whitespace() || c == '\u{feff}';
    text.lines().filter_map(move |line| {
        let entry = line.split(['#', ';']).next()?.trim_matches(blank);
        // Both are parts of the text.
        (!entry.is_empty()).then(|| (entry.as_ptr() as usize - text.as_ptr() as usize, entry))
    })
}

/// Reads nothing, for texts that come from anywhere.
pub(crate) fn none(_: &Path) -> Result<String, String> {
    Err("files are not read here".into())
}
