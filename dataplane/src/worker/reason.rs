//! The one list of reasons for which a packet is dropped: metric label, CLI column, documentation.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal,)+) => {
        /// Why a packet was dropped.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl DropReason {
            /// Every reason, in the order of the enum.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name,)+];

            /// The name users see.
            pub fn label(self) -> &'static str {
                match self { $(DropReason::$name => $label,)+ }
            }

            /// What it means, one sentence.
            pub fn describe(self) -> &'static str {
                match self { $(DropReason::$name => concat!($($doc,)+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    /// Too short, or its lengths contradict each other.
    Malformed = "malformed",
    /// The IPv4 header checksum is wrong.
    IpChecksum = "ip_checksum",
    /// An IP option that is refused (source route), or options whose lengths do not add up, which the sender is told.
    IpOption = "ip_option",
    /// A source address no host may have (loopback, multicast, broadcast, unspecified, the gateway's own).
    MartianSource = "martian_source",
    /// A destination that is never forwarded (loopback, multicast, broadcast, link-local).
    MartianDestination = "martian_destination",
    /// The frame is for another Ethernet address.
    OtherHost = "other_host",
    /// The source address is not routed to the interface the packet came in on.
    ReversePath = "reverse_path",
    /// A fragment that could not be put in relation to its datagram.
    Fragment = "fragment",
    /// Overlapping or impossible fragments.
    FragmentInvalid = "fragment_invalid",
    /// Waiting fragments reached their limit of memory or time.
    FragmentLimit = "fragment_limit",
    /// Fits no connection and cannot start one, or its checksum is wrong; a rule dropped it.
    Invalid = "invalid",
    /// INVALID, accepted by the rules, but needing a translation that only a connection could give.
    InvalidUntranslated = "invalid_untranslated",
    /// A rule, or the default, said drop.
    Policy = "policy",
    /// A rule said reject.
    PolicyReject = "policy_reject",
    /// The connection table is full.
    TableFull = "table_full",
    /// The source address has as many connections as it may have.
    SourceConnections = "source_connections",
    /// The source address makes new connections faster than it may.
    SourceRate = "source_rate",
    /// A helper could not read a command to its end, or could not translate what it announces.
    Helper = "helper",
    /// No free source port or address for the translation.
    NatExhausted = "nat_exhausted",
    /// A translation whose address is not available (an interface without address).
    NatNoAddress = "nat_no_address",
    /// Another packet made the same connection at the same moment.
    InsertFailed = "insert_failed",
    /// No route to the destination.
    NoRoute = "no_route",
    /// The route says blackhole, unreachable or prohibit.
    RouteRefused = "route_refused",
    /// The route leads out of an interface that is not Sluice's.
    EgressNotManaged = "egress_not_managed",
    /// The egress interface is down or gone.
    InterfaceDown = "interface_down",
    /// The time to live ran out.
    TtlExceeded = "ttl_exceeded",
    /// Larger than the egress MTU and not to be fragmented.
    TooBig = "too_big",
    /// The next hop does not answer ARP or neighbour discovery.
    NeighbourUnresolved = "neighbour_unresolved",
    /// Too many packets wait for the next hop's address.
    NeighbourQueueFull = "neighbour_queue_full",
    /// The transmit ring is full.
    TransmitFull = "transmit_full",
    /// No free frame was left.
    NoFrame = "no_frame",
    /// The hand-off ring to the owning worker is full.
    HandoffFull = "handoff_full",
    /// A packet for the gateway host could not be handed to the kernel: queue full or over the rate limit.
    PuntLimit = "punt_limit",
}

impl DropReason {
    /// Number of reasons.
    pub const COUNT: usize = Self::ALL.len();
}
