//! Builds the families of one scrape in the `prometheus` crate's terms.

use dataplane::worker::counters::Histogram;
use prometheus::proto::{self, LabelPair, Metric, MetricFamily, MetricType};

use super::families::{Family, Kind};

/// The families of one scrape.
#[derive(Default)]
pub(super) struct Page(Vec<MetricFamily>);

/// A family being filled.
pub(super) struct Samples<'p> {
    of: &'static Family,
    to: &'p mut MetricFamily,
}

impl Page {
    /// Starts a family; its samples follow.
    pub(super) fn family(&mut self, of: &'static Family) -> Samples<'_> {
        let mut f = MetricFamily::default();
        f.set_name(of.name.to_owned());
        f.set_help(of.help.to_owned());
        f.set_field_type(match of.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
            Kind::Histogram => MetricType::HISTOGRAM,
        });
        self.0.push(f);
        Samples { of, to: self.0.last_mut().expect("just pushed") }
    }

    /// A family without labels.
    pub(super) fn single(&mut self, of: &'static Family, value: f64) {
        self.family(of).add(&[], value);
    }

    /// Those that have samples.
    pub(super) fn finish(self) -> Vec<MetricFamily> {
        self.0.into_iter().filter(|f| !f.get_metric().is_empty()).collect()
    }
}

impl Samples<'_> {
    /// Adds a sample with these values of the family's labels.
    pub(super) fn add(&mut self, labels: &[&str], value: f64) {
        let mut m = self.metric(labels);
        if self.of.kind == Kind::Counter {
            let mut c = proto::Counter::default();
            c.set_value(value);
            m.set_counter(c);
        } else {
            let mut g = proto::Gauge::default();
            g.set_value(value);
            m.set_gauge(g);
        }
        self.to.mut_metric().push(m);
    }

    /// Adds a histogram of durations whose sum is `sum_ns` nanoseconds.
    pub(super) fn add_durations<const BASE: u64>(&mut self, labels: &[&str], h: &Histogram<BASE>, sum_ns: u64) {
        let mut out = proto::Histogram::default();
        let buckets = h.cumulative();
        out.set_sample_count(buckets.last().map_or(0, |b| b.1) + h.beyond());
        out.set_sample_sum(sum_ns as f64 / 1e9);
        let bucket = |(bound, count): (u64, u64)| {
            let mut b = proto::Bucket::default();
            b.set_upper_bound(bound as f64 / 1e9);
            b.set_cumulative_count(count);
            b
        };
        out.set_bucket(buckets.into_iter().map(bucket).collect());
        let mut m = self.metric(labels);
        m.set_histogram(out);
        self.to.mut_metric().push(m);
    }

    fn metric(&self, values: &[&str]) -> Metric {
        assert_eq!(values.len(), self.of.labels.len(), "labels of {}", self.of.name);
        let pair = |(name, value): (&&str, &&str)| {
            let mut l = LabelPair::default();
            l.set_name((*name).to_owned());
            l.set_value((*value).to_owned());
            l
        };
        Metric::from_label(self.of.labels.iter().zip(values).map(pair).collect())
    }
}
