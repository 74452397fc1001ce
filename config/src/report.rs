//! Collects faults while a policy is read, and turns byte offsets into lines and columns.

use std::cell::OnceCell;
use std::sync::Arc;

use dataplane::policy::Place;

use crate::diagnostic::{Diagnostic, Diagnostics, Severity};
use crate::suggest::nearest;

/// Errors kept, and warnings; the rest is only counted.
const KEPT: usize = 100;

/// A stretch of the text in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Span {
    /// First byte.
    pub(crate) start: u32,
    /// Bytes; 0 where YAML marks a place only.
    pub(crate) len: u32,
}

/// The text of a policy and the faults found in it so far.
pub(crate) struct Report<'t> {
    file: Arc<str>,
    text: &'t str,
    lines: OnceCell<Vec<u32>>,
    diagnostics: Vec<Diagnostic>,
    omitted: usize,
    errors: usize,
    warnings: usize,
}

impl<'t> Report<'t> {
    pub(crate) fn new(file: &str, text: &'t str) -> Self {
        Report {
            file: file.into(),
            text,
            lines: OnceCell::new(),
            diagnostics: Vec::new(),
            omitted: 0,
            errors: 0,
            warnings: 0,
        }
    }

    /// The text of the policy.
    pub(crate) fn text(&self) -> &'t str {
        self.text
    }

    /// Errors so far; warnings do not count.
    pub(crate) fn errors(&self) -> usize {
        self.errors
    }

    pub(crate) fn error(&mut self, at: Span, message: impl Into<String>) {
        self.push(Severity::Error, at, message.into(), None);
    }

    /// Refuses a value for the reason its own parser gave.
    pub(crate) fn refuse(&mut self, at: Span, reason: &impl std::fmt::Display, help: Option<String>) {
        self.push(Severity::Error, at, reason.to_string(), help);
    }

    pub(crate) fn error_help(&mut self, at: Span, message: impl Into<String>, help: impl Into<String>) {
        self.push(Severity::Error, at, message.into(), Some(help.into()));
    }

    pub(crate) fn warning(&mut self, at: Span, message: impl Into<String>, help: impl Into<String>) {
        self.push(Severity::Warning, at, message.into(), Some(help.into()));
    }

    /// Refuses `name`, which is no `kind` there is, and offers the nearest of `known`.
    pub(crate) fn unknown<'c>(
        &mut self,
        at: Span,
        kind: &str,
        name: &str,
        known: impl IntoIterator<Item = &'c str> + Clone,
    ) {
        let help = match nearest(name, known.clone()) {
            Some(n) => format!("did you mean `{n}`?"),
            None => match listed(known) {
                Some(all) => format!("known here: {all}"),
                None => format!("no {kind} is defined"),
            },
        };
        self.error_help(at, format!("unknown {kind} `{}`", short(name)), help);
    }

    fn push(&mut self, severity: Severity, at: Span, message: String, help: Option<String>) {
        let count = match severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        *count += 1;
        if *count > KEPT {
            self.omitted += 1;
            return;
        }
        let (line, column) = self.position(at.start);
        let source = self.line(line);
        let begin = self.starts()[line as usize - 1] as usize;
        let from = (at.start as usize - begin).min(source.len());
        let to = (from + at.len as usize).min(source.len());
        let length = source.get(from..to).map_or(1, |s| s.trim_end().chars().count()).max(1);
        self.diagnostics.push(Diagnostic {
            severity,
            file: self.file.to_string(),
            line,
            column,
            length: length as u32,
            message,
            help,
            source_line: Some(source.to_owned()),
        });
    }

    fn starts(&self) -> &[u32] {
        self.lines.get_or_init(|| {
            let after = self.text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i as u32 + 1);
            std::iter::once(0).chain(after).collect()
        })
    }

    fn line(&self, line: u32) -> &'t str {
        let starts = self.starts();
        let begin = starts[line as usize - 1] as usize;
        let end = starts.get(line as usize).map_or(self.text.len(), |e| *e as usize);
        self.text[begin..end].trim_end_matches(['\r', '\n'])
    }

    /// Line of a byte offset, counted from 1.
    pub(crate) fn line_of(&self, at: Span) -> u32 {
        self.position(at.start).0
    }

    /// Where `at` is, for the compiled policy.
    pub(crate) fn place_of(&self, at: Span) -> Place {
        Place { file: self.file.clone(), line: self.line_of(at) }
    }

    fn position(&self, offset: u32) -> (u32, u32) {
        let starts = self.starts();
        let line = starts.partition_point(|s| *s <= offset);
        let before = self.text.get(starts[line - 1] as usize..offset as usize).unwrap_or("");
        // A byte order mark is no column of its own.
        let column = before.trim_start_matches('\u{feff}').chars().count();
        (line as u32, column as u32 + 1)
    }

    /// The place of a line and column, both counted from 1; the end of the text when there is no such place.
    pub(crate) fn place(&self, line: u64, column: u64) -> Span {
        let starts = self.starts();
        let index = usize::try_from(line.saturating_sub(1)).unwrap_or(usize::MAX);
        let Some(begin) = starts.get(index) else {
            return Span { start: self.text.len() as u32, len: 0 };
        };
        let rest = &self.text[*begin as usize..];
        let skip = usize::try_from(column.saturating_sub(1)).unwrap_or(usize::MAX);
        let bytes = rest.char_indices().nth(skip).map_or(rest.len(), |(i, _)| i);
        Span { start: begin + bytes as u32, len: 1 }
    }

    /// Ends the reading: the value when there was no error, with the warnings; else all faults.
    pub(crate) fn finish<T>(mut self, value: Option<T>) -> Result<(T, Vec<Diagnostic>), Diagnostics> {
        self.diagnostics.sort_by_key(|d| (d.line, d.column));
        match value {
            Some(v) if self.errors == 0 => Ok((v, self.diagnostics)),
            _ => Err(Diagnostics { diagnostics: self.diagnostics, omitted: self.omitted }),
        }
    }
}

/// `name` cut to a length that fits in a message.
pub(crate) fn short(name: &str) -> String {
    let clean: String = name.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if name.chars().nth(60).is_some() { format!("{clean}...") } else { clean }
}

/// Up to twenty names as a list in backquotes; `None` for no names.
fn listed<'c>(names: impl IntoIterator<Item = &'c str>) -> Option<String> {
    let mut it = names.into_iter();
    let mut all: Vec<String> = it.by_ref().take(20).map(|n| format!("`{n}`")).collect();
    if all.is_empty() {
        return None;
    }
    let more = it.count();
    if more > 0 {
        all.push(format!("and {more} more"));
    }
    Some(all.join(", "))
}
