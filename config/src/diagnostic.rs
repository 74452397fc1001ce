//! What is wrong with a policy, where, and what to do: as text for people and as values for JSON.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::files::NamedFile;

/// The longest stretch of a source line that is shown; longer lines are cut around the fault.
const SHOWN: usize = 120;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The policy is refused.
    Error,
    /// The policy is accepted, but does probably not do what was meant.
    Warning,
}

/// One fault of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The file as it was named by the caller.
    pub file: String,
    /// Line, counted from 1; 0 when the fault has no place in the text (the file cannot be read).
    pub line: u32,
    /// Column in characters, counted from 1; 0 when there is no place.
    pub column: u32,
    /// Characters of the line that are at fault, at least 1.
    pub length: u32,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// The line of the text, without its end.
    pub source_line: Option<String>,
}

/// All faults found in one policy, in the order of the text.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Diagnostics {
    /// The faults: the first hundred errors and the first hundred warnings.
    pub diagnostics: Vec<Diagnostic>,
    /// How many more were found.
    pub omitted: usize,
    /// Files that the refused policy names beside its own, as far as it was understood.
    #[serde(skip)]
    pub files: Vec<NamedFile>,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        })
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.severity, self.message)?;
        let margin = self.line.to_string().len();
        match (&self.source_line, self.line) {
            (Some(text), 1..) => {
                let (shown, caret) = window(text, self.column as usize - 1);
                let length = (self.length as usize).clamp(1, shown.chars().count().saturating_sub(caret).max(1));
                writeln!(f, "{:margin$}--> {}:{}:{}", "", self.file, self.line, self.column)?;
                writeln!(f, "{:margin$} |", "")?;
                writeln!(f, "{} | {shown}", self.line)?;
                writeln!(f, "{:margin$} | {:caret$}{}", "", "", "^".repeat(length))?;
            }
            _ => writeln!(f, "{:margin$}--> {}", "", self.file)?,
        }
        match &self.help {
            Some(help) => writeln!(f, "{:margin$} = help: {help}", ""),
            None => Ok(()),
        }
    }
}

/// The part of `line` around character `at` that is shown, and where `at` lies in it. Characters that
/// would move the cursor become spaces, so that the caret stays under the fault.
fn window(line: &str, at: usize) -> (String, usize) {
    let count = line.chars().count();
    let start = if count <= SHOWN { 0 } else { at.saturating_sub(SHOWN / 2).min(count - SHOWN) };
    let mut shown: String =
        line.chars().skip(start).take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut caret = at - start.min(at);
    if start > 0 {
        shown.insert_str(0, "... ");
        caret += 4;
    }
    if start + SHOWN < count {
        shown.push_str(" ...");
    }
    (shown, caret)
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, d) in self.diagnostics.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            d.fmt(f)?;
        }
        if self.omitted > 0 {
            writeln!(f, "\n{} more not shown", self.omitted)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: u32, column: u32, length: u32, text: &str) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            file: "p.yaml".into(),
            line,
            column,
            length,
            message: "unknown zone `insid`".into(),
            help: Some("did you mean `inside`?".into()),
            source_line: Some(text.into()),
        }
    }

    #[test]
    fn shows_the_line_with_a_caret() {
        let text = at(12, 13, 5, "      from: insid").to_string();
        assert_eq!(
            text,
            "error: unknown zone `insid`\n  --> p.yaml:12:13\n   |\n12 |       from: insid\n   |             ^^^^^\n   \
             = help: did you mean `inside`?\n"
        );
    }

    #[test]
    fn cuts_long_lines_around_the_fault() {
        let long = format!("{}insid{}", "x".repeat(1000), "y".repeat(1000));
        let text = at(1, 1001, 5, &long).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[3].len() < 150, "{text}");
        let caret = lines[4].find('^').expect("a caret");
        assert_eq!(&lines[3][caret..caret + 5], "insid");
    }

    #[test]
    fn a_fault_without_a_place_names_the_file() {
        let d = Diagnostic { line: 0, column: 0, help: None, source_line: None, ..at(1, 1, 1, "") };
        assert_eq!(d.to_string(), "error: unknown zone `insid`\n --> p.yaml\n");
    }

    #[test]
    fn json_has_every_field() {
        let v = serde_json::to_value(at(12, 13, 5, "x")).expect("serializable");
        assert_eq!(v["severity"], "error");
        assert_eq!(v["line"], 12);
        assert_eq!(v["column"], 13);
        assert_eq!(v["help"], "did you mean `inside`?");
    }
}
