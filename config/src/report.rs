//! Collects faults while a policy is read, and turns byte offsets into lines and columns.

use std::cell::OnceCell;
use std::path::Path;
use std::sync::Arc;

use dataplane::policy::Place;

use crate::diagnostic::{Diagnostic, Diagnostics, Severity};
use crate::files::{Load, NamedFile};
use crate::host::Host;
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
    /// Which text: 0 is the policy, others are files that it names.
    pub(crate) source: u16,
}

/// The most files a policy can name.
const MAX_FILES: usize = 1000;

/// One of the texts.
struct Source<'t> {
    name: Arc<str>,
    text: Text<'t>,
    lines: OnceCell<Vec<u32>>,
}

enum Text<'t> {
    Policy(&'t str),
    File(Arc<str>),
}

impl Source<'_> {
    fn text(&self) -> &str {
        match &self.text {
            Text::Policy(t) => t,
            Text::File(t) => t,
        }
    }

    /// Where each line begins.
    fn starts(&self) -> &[u32] {
        self.lines.get_or_init(|| {
            let after = self.text().bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i as u32 + 1);
            std::iter::once(0).chain(after).collect()
        })
    }

    fn line(&self, line: u32) -> &str {
        let starts = self.starts();
        let begin = starts[line as usize - 1] as usize;
        let end = starts.get(line as usize).map_or(self.text().len(), |e| *e as usize);
        self.text()[begin..end].trim_end_matches(['\r', '\n'])
    }

    /// Line and column of a byte, counted from 1.
    fn position(&self, offset: u32) -> (u32, u32) {
        let starts = self.starts();
        let line = starts.partition_point(|s| *s <= offset);
        let before = self.text().get(starts[line - 1] as usize..offset as usize).unwrap_or("");
        // A byte order mark is no column of its own.
        let column = before.trim_start_matches('\u{feff}').chars().count();
        (line as u32, column as u32 + 1)
    }
}

/// The text of a policy and the faults found in it so far.
pub(crate) struct Report<'t> {
    text: &'t str,
    sources: Vec<Source<'t>>,
    /// Also those that could not be read.
    named: Vec<NamedFile>,
    load: Load,
    host: Host,
    /// With the number of the text each is in.
    diagnostics: Vec<(u16, Diagnostic)>,
    omitted: usize,
    errors: usize,
    warnings: usize,
}

impl<'t> Report<'t> {
    pub(crate) fn new(file: &str, text: &'t str, load: Load, host: Host) -> Self {
        let policy = Source { name: file.into(), text: Text::Policy(text), lines: OnceCell::new() };
        let (sources, named, diagnostics) = (vec![policy], Vec::new(), Vec::new());
        Report { text, sources, named, load, host, diagnostics, omitted: 0, errors: 0, warnings: 0 }
    }

    /// The machine that the policy is for.
    pub(crate) fn host(&self) -> Host {
        self.host
    }

    /// The text of the policy.
    pub(crate) fn text(&self) -> &'t str {
        self.text
    }

    /// Reads a file that is named at `at`, relative to the policy's own. Its text, and the number that places in
    /// it have.
    pub(crate) fn open(&mut self, at: Span, name: &str) -> Option<(u16, Arc<str>)> {
        let directory = Path::new(&*self.sources[0].name).parent().unwrap_or(Path::new(""));
        let path = directory.join(name);
        let read = match self.sources.len() > MAX_FILES {
            true => Err(format!("a policy can name at most {MAX_FILES} files")),
            false => {
                let read = (self.load)(&path);
                self.named.push(NamedFile::of(&path, read.as_deref().ok()));
                read
            }
        };
        let text: Arc<str> = match read {
            Ok(text) => text.into(),
            Err(e) => {
                self.error(at, format!("cannot read `{}`: {e}", short(&path.to_string_lossy())));
                return None;
            }
        };
        let number = self.sources.len() as u16;
        let name = path.to_string_lossy().into();
        self.sources.push(Source { name, text: Text::File(text.clone()), lines: OnceCell::new() });
        Some((number, text))
    }

    /// The files that were read beside the policy, with their texts.
    pub(crate) fn files(&self) -> Vec<(Arc<str>, Arc<str>)> {
        let file = |s: &Source<'_>| match &s.text {
            Text::Policy(_) => None,
            Text::File(text) => Some((s.name.clone(), text.clone())),
        };
        self.sources.iter().filter_map(file).collect()
    }

    /// The files that were to be read beside the policy.
    pub(crate) fn named(&self) -> &[NamedFile] {
        &self.named
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
        let file = &self.sources[usize::from(at.source)];
        let (line, column) = file.position(at.start);
        let source = file.line(line);
        let begin = file.starts()[line as usize - 1] as usize;
        let from = (at.start as usize - begin).min(source.len());
        let to = (from + at.len as usize).min(source.len());
        let length = source.get(from..to).map_or(1, |s| s.trim_end().chars().count()).max(1);
        let diagnostic = Diagnostic {
            severity,
            file: file.name.to_string(),
            line,
            column,
            length: length as u32,
            message,
            help,
            source_line: Some(source.to_owned()),
        };
        self.diagnostics.push((at.source, diagnostic));
    }

    /// Line of a byte offset, counted from 1.
    pub(crate) fn line_of(&self, at: Span) -> u32 {
        self.sources[usize::from(at.source)].position(at.start).0
    }

    /// Where `at` is, for the compiled policy.
    pub(crate) fn place_of(&self, at: Span) -> Place {
        Place { file: self.sources[usize::from(at.source)].name.clone(), line: self.line_of(at) }
    }

    /// The place of a line and column, both counted from 1; the end of the text when there is no such place.
    pub(crate) fn place(&self, line: u64, column: u64) -> Span {
        let starts = self.sources[0].starts();
        let index = usize::try_from(line.saturating_sub(1)).unwrap_or(usize::MAX);
        let Some(begin) = starts.get(index) else {
            return Span { start: self.text.len() as u32, ..Span::default() };
        };
        let rest = &self.text[*begin as usize..];
        let skip = usize::try_from(column.saturating_sub(1)).unwrap_or(usize::MAX);
        let bytes = rest.char_indices().nth(skip).map_or(rest.len(), |(i, _)| i);
        Span { start: begin + bytes as u32, len: 1, source: 0 }
    }

    /// Ends the reading: the value when there was no error, with the warnings; else all faults.
    pub(crate) fn finish<T>(mut self, value: Option<T>) -> Result<(T, Vec<Diagnostic>), Diagnostics> {
        self.diagnostics.sort_by_key(|(source, d)| (*source, d.line, d.column));
        let diagnostics = self.diagnostics.into_iter().map(|(_, d)| d).collect();
        match value {
            Some(v) if self.errors == 0 => Ok((v, diagnostics)),
            _ => Err(Diagnostics { diagnostics, omitted: self.omitted, files: self.named }),
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
