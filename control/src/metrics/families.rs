//! The one table of metrics: what is exposed under which name, and what docs/metrics.md says of it.

/// A metric family.
pub(super) struct Family {
    /// The name, complete.
    pub(super) name: &'static str,
    /// What its values are.
    pub(super) kind: Kind,
    /// Names of its labels, in order.
    pub(super) labels: &'static [&'static str],
    /// What it counts, one sentence.
    pub(super) help: &'static str,
}

/// What the values of a family are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A number that only grows.
    Counter,
    /// A number as of now.
    Gauge,
    /// Durations by their length.
    Histogram,
}

impl Kind {
    /// Its name in the exposition.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

macro_rules! families {
    ($($group:literal { $($kind:ident $id:ident = $name:literal [$($label:ident)*] $help:literal;)+ })+) => {
        $($(
            #[doc = $help]
            pub(super) const $id: Family = Family {
                name: concat!("sluice_", $name),
                kind: Kind::$kind,
                labels: &[$(stringify!($label)),*],
                help: $help,
            };
        )+)+

        /// All families, in groups.
        pub(super) const GROUPS: &[(&str, &[&Family])] = &[$(($group, &[$(&$id),+])),+];
    };
}

families! {
    "Daemon" {
        Gauge BUILD_INFO = "build_info" [version] "The running version.";
        Gauge START_TIME = "start_time_seconds" [] "When the daemon started, in seconds since 1970.";
        Gauge READY = "ready" [] "1 when packets flow.";
        Gauge SET_ENTRIES = "set_entries" [set] "Ranges of addresses or ports in a named set.";
        Gauge POLICY_RULES = "policy_rules" [kind] "Rules of the policy.";
    }
    "Changes of the policy" {
        Gauge POLICY_GENERATION = "policy_generation" []
            "Number of the policy in force, counted from the daemon's start.";
        Gauge POLICY_UNCONFIRMED = "policy_unconfirmed" [] "1 while the policy in force awaits confirmation.";
        Counter RELOAD = "reload_total" [result]
            "Attempts to load a policy (success, failure) and returns to a former one (rollback).";
        Gauge RELOAD_SUCCESSFUL = "reload_last_successful" [] "1 when the last attempt to load a policy succeeded.";
        Gauge RELOAD_SUCCESS_TIME = "reload_last_success_timestamp_seconds" []
            "When a policy was last loaded, in seconds since 1970.";
    }
    "Interfaces" {
        Gauge INTERFACE_UP = "interface_up" [interface device] "1 when the interface is up and has carrier.";
        Gauge INTERFACE_MTU = "interface_mtu_bytes" [interface device] "Largest IP packet the interface sends.";
        Counter RX_PACKETS = "interface_receive_packets_total" [interface device worker] "Packets received.";
        Counter RX_BYTES = "interface_receive_bytes_total" [interface device worker]
            "Bytes received, Ethernet header included.";
        Counter TX_PACKETS = "interface_transmit_packets_total" [interface device worker] "Packets sent.";
        Counter TX_BYTES = "interface_transmit_bytes_total" [interface device worker]
            "Bytes sent, Ethernet header included.";
        Gauge PORT_INFO = "port_info" [interface device queue worker xdp mode]
            "A queue of an interface, and how its worker gets the frames.";
        Counter STEERED = "steered_packets_total" [interface device verdict]
            "Packets by what the XDP program did with them.";
    }
    "Dropped packets" {
        Counter DROPPED = "dropped_packets_total" [reason worker] "Packets dropped, by reason.";
        Counter PUNT_DROPPED = "punt_dropped_packets_total" []
            "Packets for the gateway host dropped on the way to the kernel: over the rate limit, or refused.";
        Counter ICMP_SENT = "icmp_errors_sent_total" [worker] "ICMP errors sent.";
        Counter ICMP_LIMITED = "icmp_errors_limited_total" [worker] "ICMP errors not sent because of the rate limit.";
    }
    "Connections" {
        Gauge CONNECTIONS = "connections" [family protocol worker] "Connections in the table.";
        Gauge CONNECTIONS_MAX = "connections_max" [] "The most connections there may be.";
        Counter CREATED = "connections_created_total" [family protocol worker] "Connections entered in the table.";
        Counter EXPIRED = "connections_expired_total" [worker] "Connections that timed out.";
        Counter DELETED = "connections_deleted_total" [worker] "Connections deleted by the operator, or reopened.";
        Counter EARLY_DROPPED = "connections_early_dropped_total" [worker]
            "Unassured connections dropped because the table was full.";
        Counter REVALIDATED = "connections_revalidated_total" [worker] "Connections that a new policy has ended.";
        Histogram SETUP = "connection_setup_seconds" [worker]
            "Time a worker took over a connection's first packet, of one in 64 connections.";
    }
    "Rules" {
        Counter RULE_PACKETS = "rule_packets_total" [chain rule]
            "Packets that the rule has decided: first packets of connections, and others by themselves.";
        Counter RULE_BYTES = "rule_bytes_total" [chain rule] "Bytes of the packets that the rule has decided.";
        Counter LOG_LIMITED = "log_limited_packets_total" [worker]
            "Packets not logged because of the rate limit of a rule's log.";
        Counter LOG_LOST = "log_lost_packets_total" [worker] "Packets not logged because the queue was full.";
        Counter LIMIT_FULL = "limit_table_full_total" []
            "Packets held beyond a rule's limit because too many sources are counted.";
    }
    "Translation" {
        Gauge NAT_CONNECTIONS = "nat_connections" [chain rule] "Connections whose source the rule translates.";
        Gauge NAT_ENDPOINTS = "nat_endpoints" [chain rule]
            "Addresses times ports that the rule has for each protocol; masquerade has one address.";
        Counter NAT_EXHAUSTED = "nat_exhausted_total" [chain rule]
            "Connections that could not begin because the rule had no free address or port for them.";
        Gauge MAPPINGS = "nat_mappings" [family]
            "Sources that are bound to an outside endpoint: endpoint-independent, or moved to another port.";
    }
    "Helpers" {
        Counter HELPER_CONNECTIONS = "helper_connections_total" [helper] "Connections that the helper began to read.";
        Counter HELPER_REWRITTEN = "helper_rewritten_packets_total" [helper]
            "Packets in which the helper translated what they announce.";
        Counter HELPER_DROPPED = "helper_dropped_packets_total" [helper]
            "Packets dropped because the helper could not read a command to its end.";
        Gauge EXPECTATIONS = "expectations" [helper] "Announced connections that are waited for.";
        Counter EXPECTATIONS_CREATED = "expectations_created_total" [helper] "Connections announced.";
        Counter EXPECTATIONS_ENDED = "expectations_ended_total" [helper outcome]
            "Announced connections that are not waited for any more.";
        Counter EXPECTATIONS_REFUSED = "expectations_refused_total" [helper]
            "Announcements dropped: too many expectations, or another connection expects the same.";
    }
    "Workers" {
        Gauge WORKER_INFO = "worker_info" [worker cpu] "A worker and the CPU it is pinned to.";
        Gauge WORKER_UP = "worker_up" [worker] "1 while the worker runs.";
        Counter WORKER_SECONDS = "worker_seconds_total" [worker state]
            "What the worker's time went on: packets, polling, sleep.";
        Histogram BURST_TIME = "burst_seconds" [worker] "Time that a burst of packets took, from receiving to sending.";
        Counter HANDED_OFF = "handed_off_packets_total" [reason worker]
            "Packets handed to another worker, by reason.";
        Counter TAKEN_OVER = "taken_over_packets_total" [worker] "Packets taken over from other workers.";
        Counter PUNTED = "punted_packets_total" [worker] "Packets for the gateway host given to the kernel.";
        Counter CHECKSUMS = "checksums_completed_total" [worker]
            "Checksums completed that a sender had left to its network card.";
    }
    "Frames and rings" {
        Gauge FRAMES_SIZE = "umem_frames_size" [worker] "Frames of the worker's UMEM.";
        Gauge FRAMES = "umem_frames" [worker place] "Frames of the worker's UMEM by the place where they are.";
        Gauge RING_FRAMES = "ring_frames" [interface device worker side]
            "Frames that an interface's rings hold on the receive and on the transmit side.";
        Gauge RING_SIZE = "ring_size" [] "The most frames one side of an interface's rings holds.";
        Counter XSK_DROPPED = "xsk_receive_dropped_packets_total" [interface device queue]
            "Packets dropped before the socket, as too large ones.";
        Counter XSK_RING_FULL = "xsk_receive_ring_full_packets_total" [interface device queue]
            "Packets dropped because the worker was too slow to read them.";
        Counter XSK_FILL_EMPTY = "xsk_fill_ring_empty_total" [interface device queue]
            "Times that no frame was left to receive into.";
        Counter XSK_TX_EMPTY = "xsk_transmit_ring_empty_total" [interface device queue]
            "Times that the kernel was told to send and found nothing left to send.";
        Counter XSK_RX_INVALID = "xsk_receive_invalid_total" [interface device queue]
            "Descriptors of the fill ring that the kernel refused.";
        Counter XSK_TX_INVALID = "xsk_transmit_invalid_total" [interface device queue]
            "Descriptors of the transmit ring that the kernel refused.";
    }
    "Kernel mirror" {
        Gauge MIRROR_ROUTES = "mirror_routes" [family] "Prefixes mirrored from the kernel.";
        Gauge MIRROR_NEIGHBOURS = "mirror_neighbours" [family] "Resolved neighbours mirrored from the kernel.";
        Counter MIRROR_PUBLISHES = "mirror_publishes_total" [] "Times that changes were published to the workers.";
        Counter MIRROR_SECONDS = "mirror_publish_seconds_total" [] "Time spent on publishing changes.";
        Counter MIRROR_RESYNCS = "mirror_resyncs_total" []
            "Times that everything was read again because changes were lost.";
        Counter MIRROR_REQUESTS = "mirror_neighbour_requests_total" []
            "Neighbours the kernel was asked to resolve or confirm.";
    }
}

/// Labels of the two address families, in the order in which figures about them are kept.
pub(super) const FAMILIES: [&str; 2] = ["ipv4", "ipv6"];

/// What the labels say: name, values.
pub(super) const LABELS: &[(&str, &str)] = &[
    ("version", "the release"),
    ("kind", "`forward`, `source_nat` or `destination_nat`"),
    ("result", "of `reload_total`: `success`, `failure` or `rollback`"),
    ("set", "the set's name"),
    ("interface", "the interface's name in the policy"),
    ("device", "the kernel's name for it"),
    ("queue", "number of the device's queue"),
    ("worker", "number of the worker, from 0"),
    ("cpu", "number of the CPU, empty when the worker is not pinned"),
    ("xdp", "how the XDP program is attached: `native` or `generic`"),
    ("mode", "how frames get to the worker: `zero-copy` or `copy`"),
    (
        "verdict",
        "`to_worker`, `to_kernel` (the host's own), and for frames without a worker to take them `failed_closed` \
         (dropped), `failed_open` (to the kernel), `unattended_host` (the host's own); `bad_tags`: VLAN tags that could \
         not be removed",
    ),
    ("reason", "of a drop or a hand-off, see the tables below"),
    ("chain", "the section of the policy: `policy`, `nat.destination`, `nat.source` or `tracking`"),
    (
        "rule",
        "the rule's name; `(default)` for what no rule decided. The first 256 rules of a section have series of their \
         own, `(others)` is the sum of the rest; `sluice rules` shows all",
    ),
    ("family", "`ipv4` or `ipv6`"),
    ("protocol", "`tcp`, `udp`, `icmp` (ICMPv6 too), `sctp`, `gre` or `other`"),
    ("helper", "the helper's name in the policy"),
    (
        "outcome",
        "`used`: the connection came; `expired`: it did not in time; `withdrawn`: the one that announced it ended or \
         announced another",
    ),
    ("state", "`busy` with packets, `idle` polling, `sleep` until the kernel has some"),
    (
        "place",
        "`free`, `receive` and `transmit` rings, `lent` to another worker, `waiting` for a neighbour or other fragments",
    ),
    ("side", "`receive` or `transmit`"),
];
