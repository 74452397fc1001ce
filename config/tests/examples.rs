//! The example policies are valid and say what their comments say.

mod agreement;

use std::path::Path;

use dataplane::policy::{DestinationTranslation, Filtering, PortChoice, SourceTranslation};

fn load(name: &str) -> config::Config {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    let checked = config::load(&path).unwrap_or_else(|e| panic!("{e}"));
    assert!(checked.warnings.is_empty(), "{:?}", checked.warnings);
    agreement::agrees(&std::fs::read_to_string(&path).expect("it was read before"));
    checked.config
}

#[test]
fn home() {
    let c = load("home.yaml");
    assert_eq!(c.policy.zones, ["inside", "guests", "outside"]);
    assert!(c.policy.strict_reverse_path.contains(0));
    assert_eq!(c.policy.source_nat.len(), 2);
    assert_eq!(c.policy.rules.len(), 7);
}

#[test]
fn office_dmz() {
    let c = load("office-dmz.yaml");
    assert_eq!(c.policy.timeouts[0].udp, 45);
    assert_eq!(c.policy.helpers.iter().map(|h| h.1).collect::<Vec<_>>(), [21, 2121]);
    assert_eq!(c.policy.source_nat[0].translate, SourceTranslation::None);
    let backends = match &c.policy.destination_nat[0].translate {
        DestinationTranslation::To { addresses, .. } => addresses.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(backends, 2);
}

#[test]
fn datacentre() {
    let c = load("datacentre.yaml");
    assert_eq!(c.workers.cpus.as_deref(), Some(&[2, 3, 4, 5, 6, 7, 8, 9][..]));
    assert_eq!(c.policy.max_connections, 10_000_000);
    assert_eq!(c.policy.tracking.len(), 1);
    assert_eq!(c.policy.icmp_errors_per_second, 5000);
}

#[test]
fn games_full_cone() {
    let c = load("games-full-cone.yaml");
    let independent: Vec<Option<Filtering>> = c
        .policy
        .source_nat
        .iter()
        .map(|s| match &s.translate {
            SourceTranslation::Masquerade(PortChoice { independent, .. }) => *independent,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(independent, [Some(Filtering::EndpointIndependent), Some(Filtering::AddressDependent), None]);
    assert!(c.policy.clamp_mss);
    assert_eq!((c.policy.limits.connections, c.policy.limits.rate), (4000, 500));
    let timeouts: Vec<u8> = c.policy.rules.iter().map(|r| r.timeouts).collect();
    assert_eq!(timeouts, [1, 0, 0, 1, 0]);
    assert_eq!(c.policy.timeouts[1].udp, 300);
}
