//! All measurements of a run, and what follows from them: medians, spreads and ratios within a round.

use std::fmt::Write;

use super::gateway::Kind;

/// What was measured: a name and a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Test {
    pub(super) name: String,
    pub(super) unit: &'static str,
}

struct Sample {
    round: usize,
    test: usize,
    gateway: Kind,
    value: f64,
}

/// Several values of the same thing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Summary {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

impl Summary {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Summary { median: (low + high) / 2.0, least, most })
    }
}

/// The measurements of a run.
#[derive(Default)]
pub(super) struct Samples {
    tests: Vec<Test>,
    samples: Vec<Sample>,
    /// The greatest share of a CPU that others used during a measurement that was kept.
    pub(super) noise: f64,
}

impl Samples {
    /// Takes a value, and shows it.
    pub(super) fn add(&mut self, round: usize, gateway: Kind, name: &str, unit: &'static str, value: f64) {
        let test = Test { name: name.into(), unit };
        let at = self.tests.iter().position(|t| *t == test).unwrap_or_else(|| {
            self.tests.push(test);
            self.tests.len() - 1
        });
        println!("round {} {name:<22} {gateway:<14} {value:>9.3} {unit}", round + 1);
        self.samples.push(Sample { round, test: at, gateway, value });
    }

    /// What was measured, in the order of the first measurements.
    pub(super) fn tests(&self) -> &[Test] {
        &self.tests
    }

    /// A gateway's values.
    pub(super) fn summary(&self, test: usize, gateway: Kind) -> Option<Summary> {
        let of = self.samples.iter().filter(|s| s.test == test && s.gateway == gateway);
        Summary::of(of.map(|s| s.value).collect())
    }

    /// The median of a gateway's values in a test.
    pub(super) fn median(&self, name: &str, unit: &str, gateway: Kind) -> Option<f64> {
        let test = self.tests.iter().position(|t| t.name == name && t.unit == unit)?;
        Some(self.summary(test, gateway)?.median)
    }

    /// One gateway's value relative to another's in the same round.
    pub(super) fn ratio(&self, test: usize, gateway: Kind, to: Kind) -> Option<Summary> {
        let of = |g| move |s: &&Sample| s.test == test && s.gateway == g;
        let ratios = self.samples.iter().filter(of(gateway)).filter_map(|s| {
            let other = self.samples.iter().filter(of(to)).find(|o| o.round == s.round)?;
            Some(s.value / other.value)
        });
        Summary::of(ratios.collect())
    }

    /// A Markdown table: a line for each test, a column for each gateway, and the first gateway's ratios to
    /// the others.
    pub(super) fn markdown(&self, gateways: &[Kind]) -> String {
        let (first, others) = (gateways[0], &gateways[1..]);
        let mut t = String::from("| | ");
        gateways.iter().for_each(|g| _ = write!(t, "| {g} "));
        others.iter().for_each(|g| _ = write!(t, "| {first} / {g} "));
        t += "|\n|---|---";
        t += &"|--:".repeat(gateways.len() + others.len());
        t += "|\n";
        for (i, test) in self.tests.iter().enumerate() {
            _ = write!(t, "| {} | {} ", test.name, test.unit);
            for g in gateways {
                t += &self.summary(i, *g).map_or("| – ".into(), |s| format!("| {} ", cell(s)));
            }
            for g in others {
                t += &self.ratio(i, first, *g).map_or("| – ".into(), |s| format!("| {:.2} ", s.median));
            }
            t += "|\n";
        }
        t
    }
}

/// The median, and the extremes where they differ from it, with as many digits as mean something.
fn cell(s: Summary) -> String {
    let digits = match s.median {
        m if m >= 1000.0 => 0,
        m if m >= 10.0 => 1,
        _ => 3,
    };
    let f = |v: f64| format!("{v:.digits$}");
    if f(s.least) == f(s.most) { f(s.median) } else { format!("{} ({}–{})", f(s.median), f(s.least), f(s.most)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_within_a_round() {
        let mut s = Samples::default();
        for (round, (a, b)) in [(2.0, 1.0), (8.0, 2.0), (3.0, 1.0)].into_iter().enumerate() {
            s.add(round, Kind::Sluice, "x", "Mpps", a);
            s.add(round, Kind::Kernel, "x", "Mpps", b);
        }
        assert_eq!(s.ratio(0, Kind::Sluice, Kind::Kernel), Some(Summary { median: 3.0, least: 2.0, most: 4.0 }));
        assert_eq!(s.ratio(0, Kind::Sluice, Kind::Forwarder), None);
        assert_eq!(
            s.markdown(&[Kind::Sluice, Kind::Kernel]),
            "| | | sluice | kernel | sluice / kernel |\n|---|---|--:|--:|--:|\n\
             | x | Mpps | 3.000 (2.000–8.000) | 1.000 (1.000–2.000) | 3.00 |\n"
        );
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_two_in_the_middle() {
        assert_eq!(Summary::of(vec![4.0, 1.0, 2.0, 3.0]).map(|s| s.median), Some(2.5));
        assert_eq!(Summary::of(vec![]), None);
    }
}
