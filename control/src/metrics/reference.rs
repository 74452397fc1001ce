//! docs/metrics.md, written from the tables that the daemon itself uses.

use std::fmt::Write;

use dataplane::worker::{DropReason, HandoffReason};
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricType;

use super::families::{GROUPS, LABELS};

const HEAD: &str = "\
# Metrics

This page is generated from the code: `make docs` writes it, and a test compares.

`control.metrics: 127.0.0.1:9464` in the policy serves `/metrics` in Prometheus' text format, and `/healthz`, which
answers 200 while packets flow and 503 with the reason otherwise. Workers count in plain memory that they alone write;
a scrape reads it and costs them nothing. All counters begin at 0 when the daemon starts.

The number of series is bounded: about 100, and 150 for each worker, 2 for each rule and 3 for each translation. Of each
section of the policy 256 rules have series of their own, the others are added up as `(others)`.

```yaml
scrape_configs:
  - job_name: sluice
    static_configs:
      - targets: ['127.0.0.1:9464']
```

Alert rules are in [docker/prometheus/rules](../docker/prometheus/rules/sluice.yaml), dashboards in
[docker/grafana](../docker/grafana); [operations.md](operations.md#watching) says what to look at.
";

/// The whole page.
pub(crate) fn markdown() -> String {
    let mut t = HEAD.to_owned();
    write_tables(&mut t).expect("a String takes everything");
    t
}

fn write_tables(t: &mut String) -> std::fmt::Result {
    for (group, families) in GROUPS {
        writeln!(t, "\n## {group}\n\n| metric | type | labels | meaning |\n|---|---|---|---|")?;
        for f in *families {
            let labels: Vec<String> = f.labels.iter().map(|l| format!("`{l}`")).collect();
            writeln!(t, "| `{}` | {} | {} | {} |", f.name, f.kind.name(), labels.join(" "), f.help)?;
        }
    }
    writeln!(t, "\n## Process\n\n| metric | type | meaning |\n|---|---|---|")?;
    for f in ProcessCollector::for_self().collect() {
        let kind = if f.get_field_type() == MetricType::COUNTER { "counter" } else { "gauge" };
        writeln!(t, "| `{}` | {kind} | {} |", f.name(), f.help())?;
    }
    writeln!(t, "\n## Labels\n\n| label | says |\n|---|---|")?;
    for (name, says) in LABELS {
        writeln!(t, "| `{name}` | {says} |")?;
    }
    let reasons = |t: &mut String, title: &str, rows: Vec<[&str; 3]>| {
        writeln!(t, "\n## {title}\n\n| reason | meaning | what to do |\n|---|---|---|")?;
        rows.iter().try_for_each(|[label, meaning, advice]| writeln!(t, "| `{label}` | {meaning} | {advice} |"))
    };
    let drops = DropReason::ALL.iter().map(|r| [r.label(), r.describe(), r.advice()]).collect();
    reasons(t, "Reasons for a drop", drops)?;
    let handoffs = HandoffReason::ALL.iter().map(|r| [r.label(), r.describe(), r.advice()]).collect();
    reasons(t, "Reasons for a hand-off", handoffs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_docs_is_up_to_date() {
        let page = include_str!("../../../docs/metrics.md");
        assert!(page == markdown(), "docs/metrics.md is not what the code says: run `make docs`");
    }

    #[test]
    fn every_label_is_explained_once() {
        let used: std::collections::BTreeSet<&str> =
            GROUPS.iter().flat_map(|g| g.1).flat_map(|f| f.labels).copied().collect();
        let mut explained: Vec<&str> = LABELS.iter().map(|l| l.0).collect();
        explained.sort_unstable();
        assert_eq!(explained, used.into_iter().collect::<Vec<_>>());
    }
}
