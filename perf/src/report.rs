//! Figures: lines for people, JSON for programs.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// A measured value, and what was asked of it.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    name: String,
    value: f64,
    unit: String,
    budget: Option<f64>,
    met: Option<bool>,
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<40} {:>10.2} {:<10}", self.name, self.value, self.unit)?;
        match (self.budget, self.met) {
            (Some(b), Some(true)) => write!(f, " budget {b}: met"),
            (Some(b), _) => write!(f, " budget {b}: missed"),
            _ => Ok(()),
        }
    }
}

/// The figures of one run.
#[derive(Debug)]
pub(crate) struct Report {
    figures: Vec<Figure>,
    quick: bool,
}

impl Report {
    /// No figures yet. Those of a quick run are of smaller tables and shorter times than the budgets are about, and
    /// are not compared with them.
    pub(crate) fn new(quick: bool) -> Self {
        Report { figures: Vec::new(), quick }
    }

    /// A figure that should stay below its budget.
    pub(crate) fn add_below(&mut self, name: &str, value: f64, unit: &str, budget: Option<f64>) -> &Figure {
        self.add(name, value, unit, budget, budget.map(|b| value <= b))
    }

    /// A figure that should reach its budget.
    pub(crate) fn add_above(&mut self, name: &str, value: f64, unit: &str, budget: Option<f64>) -> &Figure {
        self.add(name, value, unit, budget, budget.map(|b| value >= b))
    }

    fn add(&mut self, name: &str, value: f64, unit: &str, budget: Option<f64>, met: Option<bool>) -> &Figure {
        let (budget, met) = if self.quick { (None, None) } else { (budget, met) };
        let at = self.figures.len();
        self.figures.push(Figure { name: name.into(), value, unit: unit.into(), budget, met });
        &self.figures[at]
    }

    /// Writes the list of figures as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        write_file(path, &(serde_json::to_string_pretty(&self.figures)? + "\n"))
    }
}

/// Writes a file, in a directory that need not exist.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn write_file(path: &Path, text: &str) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(failed)?;
    }
    std::fs::write(path, text).with_context(failed)
}
