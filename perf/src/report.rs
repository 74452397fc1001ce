//! Figures: a table for people, JSON for programs.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

#[derive(Debug, Serialize)]
struct Figure {
    name: String,
    value: f64,
    unit: String,
    budget: Option<f64>,
    met: Option<bool>,
}

/// The figures of one run.
#[derive(Debug, Default)]
pub(crate) struct Report(Vec<Figure>);

impl Report {
    /// A figure that should stay below its budget.
    pub(crate) fn add_below(&mut self, name: &str, value: f64, unit: &str, budget: Option<f64>) {
        self.add(name, value, unit, budget, budget.map(|b| value <= b));
    }

    /// A figure that should reach its budget.
    pub(crate) fn add_above(&mut self, name: &str, value: f64, unit: &str, budget: Option<f64>) {
        self.add(name, value, unit, budget, budget.map(|b| value >= b));
    }

    fn add(&mut self, name: &str, value: f64, unit: &str, budget: Option<f64>, met: Option<bool>) {
        let verdict = match (budget, met) {
            (Some(b), Some(true)) => format!("budget {b}: met"),
            (Some(b), _) => format!("budget {b}: missed"),
            _ => String::new(),
        };
        println!("{name:<36} {value:>10.2} {unit:<10} {verdict}");
        self.0.push(Figure { name: name.into(), value, unit: unit.into(), budget, met });
    }

    /// Writes the list of figures as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::write(path, serde_json::to_string_pretty(&self.0)? + "\n")?;
        Ok(())
    }
}
