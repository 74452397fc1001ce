//! The lists of reasons for which a packet is dropped or handed on: metric label, CLI text, documentation.

macro_rules! reasons {
    (
        $(#[doc = $what:literal])+
        enum $reason:ident { $($(#[doc = $doc:literal])+ $name:ident = $label:literal, $advice:literal;)+ }
    ) => {
        $(#[doc = $what])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum $reason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl $reason {
            /// Every reason, in the order of the enum.
            pub const ALL: &'static [$reason] = &[$($reason::$name,)+];
            /// Number of reasons.
            pub const COUNT: usize = Self::ALL.len();

            /// The name users see.
            pub fn label(self) -> &'static str {
                match self { $($reason::$name => $label,)+ }
            }

            /// What it means, one sentence.
            pub fn describe(self) -> &'static str {
                match self { $($reason::$name => concat!($($doc,)+).trim_ascii(),)+ }
            }

            /// What to do about it, for an operator who sees the number grow.
            pub fn advice(self) -> &'static str {
                match self { $($reason::$name => $advice,)+ }
            }
        }
    };
}

reasons! {
    /// Why a packet was dropped.
    enum DropReason {
        /// Too short, or its lengths contradict each other.
        Malformed = "malformed",
            "Look at the sender: a broken driver, a tunnel that cuts packets, or somebody who probes.";
        /// The IPv4 header checksum is wrong.
        IpChecksum = "ip_checksum",
            "A link or a device in front damages packets: look at its error counters (`ip -s link`).";
        /// An IP option that is refused (source route), or options whose lengths do not add up, which the sender is told.
        IpOption = "ip_option",
            "Nothing: no honest program needs these options today.";
        /// A source address no host may have (loopback, multicast, broadcast, unspecified, the gateway's own).
        MartianSource = "martian_source",
            "Spoofed, or an address is configured twice: see whether a host has one of the gateway's.";
        /// A destination that is never forwarded (loopback, multicast, broadcast, link-local).
        MartianDestination = "martian_destination",
            "Nothing, mostly: hosts look for neighbours' services. Sluice does not route multicast.";
        /// The frame is for another Ethernet address.
        OtherHost = "other_host",
            "A bridge floods, a mirror port feeds the interface, or its Ethernet address was changed: `ip link`.";
        /// The source address is not routed to the interface the packet came in on.
        ReversePath = "reverse_path",
            "Spoofed, or replies are routed another way: `ip route get ADDRESS` must name that interface.";
        /// A fragment that could not be put in relation to its datagram.
        Fragment = "fragment",
            "Duplicates on the network; nothing to do while they are few.";
        /// Overlapping or impossible fragments.
        FragmentInvalid = "fragment_invalid",
            "No honest host sends these: find the sender.";
        /// Waiting fragments reached their limit of memory or time.
        FragmentLimit = "fragment_limit",
            "Fragments get lost on the way, or it is a flood. Let the path MTU be found instead: do not filter ICMP.";
        /// Fits no connection and cannot start one, or its checksum is wrong; a rule dropped it.
        Invalid = "invalid",
            "When much: asymmetric routes (Sluice sees half of each connection), or connections older than the daemon.";
        /// INVALID, accepted by the rules, but needing a translation that only a connection could give.
        InvalidUntranslated = "invalid_untranslated",
            "As `invalid`; drop INVALID packets by a rule of their own.";
        /// A rule, or the default, said drop.
        Policy = "policy",
            "If it should pass: no rule accepts it, or an earlier one drops it.";
        /// A rule said reject.
        PolicyReject = "policy_reject",
            "As `policy`; the sender was told.";
        /// The connection table is full.
        TableFull = "table_full",
            "Raise `conntrack.max_connections`, or find who holds so many: `sluice conntrack list`.";
        /// New connections come faster than the machine gives memory for them; those that there are go on.
        TableGrows = "table_grows",
            "Nothing, if it was one burst: memory stays with the table. A host that gives it slowly is short of it.";
        /// More packets come in than the worker can do, and this one would have begun a connection.
        Overload = "overload",
            "Find the flood (`sluice top`) and limit its source (`conntrack.limits`); or the gateway needs more queues and workers.";
        /// The source address has as many connections as it may have.
        SourceConnections = "source_connections",
            "A host is busier than `conntrack.limits` allows, or infected; raise the limit or look at the host.";
        /// The source address makes new connections faster than it may.
        SourceRate = "source_rate",
            "As `source_connections`: it scans, or the limit is too tight for it.";
        /// A helper could not read a command to its end, or could not translate what it announces.
        Helper = "helper",
            "Some are normal (commands cut in two are sent again). Many: a client speaks what the helper does not know.";
        /// No free source port or address for the translation.
        NatExhausted = "nat_exhausted",
            "Give the pool more addresses or ports; `sluice_nat_exhausted_total` names the translation.";
        /// A translation whose address is not available (an interface without address).
        NatNoAddress = "nat_no_address",
            "The egress interface has no address of that family: `ip address`, the DHCP client.";
        /// Another packet made the same connection at the same moment.
        InsertFailed = "insert_failed",
            "Nothing: the sender's repetition passes.";
        /// No route to the destination.
        NoRoute = "no_route",
            "The kernel has no route: `ip route get ADDRESS`.";
        /// The route says blackhole, unreachable or prohibit.
        RouteRefused = "route_refused",
            "Somebody configured that route: `ip route show type blackhole`, `unreachable`, `prohibit`.";
        /// The route leads out of an interface that is not Sluice's.
        EgressNotManaged = "egress_not_managed",
            "Name the interface in the policy, or correct the route.";
        /// The egress interface is down or gone.
        InterfaceDown = "interface_down",
            "`ip link`: it is taken up again by itself when it returns.";
        /// The time to live ran out.
        TtlExceeded = "ttl_exceeded",
            "Somebody runs traceroute. Much of it: a routing loop.";
        /// Larger than the egress MTU and not to be fragmented.
        TooBig = "too_big",
            "Normal while path MTUs are found; if it goes on, ICMP is filtered on the way back, or clamp the MSS.";
        /// The next hop does not answer ARP or neighbour discovery.
        NeighbourUnresolved = "neighbour_unresolved",
            "`ip neigh` on the gateway: the next hop, or the host addressed, is off.";
        /// Too many packets wait for the next hop's address.
        NeighbourQueueFull = "neighbour_queue_full",
            "As `neighbour_unresolved`; a scan of empty addresses does this too.";
        /// The transmit ring is full.
        TransmitFull = "transmit_full",
            "The egress interface is slower than what is sent to it: shape the traffic, or use a faster one.";
        /// No free frame was left.
        NoFrame = "no_frame",
            "Raise `io.frames`; `sluice_umem_frames` shows where they are.";
        /// The hand-off ring to the owning worker is full.
        HandoffFull = "handoff_full",
            "One worker cannot keep up with what others hand to it: compare their loads, spread receive queues better.";
        /// A packet for the gateway host could not be handed to the kernel: queue full or over the rate limit.
        PuntLimit = "punt_limit",
            "Somebody floods one of the gateway's own addresses.";
    }
}

reasons! {
    /// Why a frame was handed to another worker.
    enum HandoffReason {
        /// It belongs to a connection of the other worker.
        Connection = "connection",
            "Normal with several queues: translation sends replies to any of them. It costs each such packet a copy.";
        /// It is an ICMP error about a packet of the other worker's connection.
        IcmpError = "icmp_error",
            "Normal while few: routers send them to whatever queue their own addresses hash to.";
        /// It is a fragment, and its datagram's fragments meet at the other worker.
        Fragment = "fragment",
            "Normal for fragmented traffic; smaller datagrams, or path MTU discovery, avoid it.";
    }
}

impl DropReason {
    /// The reason with this label.
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|r| r.label() == label)
    }
}
