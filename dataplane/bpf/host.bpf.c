// Translates back what the gateway host answers on connections that were redirected to it.
//
// A worker translates the destination of such a connection to an address of the host and hands its packets
// to the kernel. The host's answers leave through the kernel and meet no worker, so their source is
// translated back here, on the way out of each interface (tc egress, behind the host's own firewall). The
// daemon enters a connection in `flows` before the host gets its first packet, and removes it afterwards.
//
// What is in no map passes untouched, and so does everything when the daemon gives no sign of life: nothing
// of the host's own traffic depends on it. Addresses of IPv4 stand in the first four bytes of those fields
// that have room for IPv6. The layouts are mirrored in host.rs.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "flow.h"

#define MAX_FRAGMENTED 4096
#define HEARTBEAT_LIMIT_NS 3000000000ull

#define IP_MORE_FRAGMENTS 0x2000
#define IP_OFFSET_MASK 0x1fff
#define IP6_MORE_FRAGMENTS 0x0001
#define IP6_OFFSET_MASK 0xfff8

#define TCP_FLAGS 13 /* offset in the header */
#define TCP_FIN 0x01
#define TCP_RST 0x04

enum sight { ANSWERED = 1, FINISHED = 2, RESET = 4 };

struct event {
	struct flow flow;
	__u16 worker;
	__u8 seen;
	__u8 unused;
};

struct fragmented {
	struct in6_addr host;
	struct in6_addr client;
	__u32 id;
	__u8 protocol;
	__u8 v6;
	__u8 unused[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_FLOWS);
	__type(key, struct flow);
	__type(value, struct origin);
} flows SEC(".maps");

/* datagrams whose first fragment was translated, to the host's address in the later ones */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FRAGMENTED);
	__type(key, struct fragmented);
	__type(value, struct in6_addr);
} fragments SEC(".maps");

/* what the worker should know of answers it does not see */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} events SEC(".maps");

/* CLOCK_MONOTONIC in nanoseconds when the daemon last showed a sign of life */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} heartbeat SEC(".maps");

struct packet {
	struct flow flow;
	__u32 l4;  /* offset of the transport header */
	__u32 id;  /* of the datagram, when it is in fragments */
	int first; /* its first fragment */
	int later; /* another one */
};

static __always_inline int is_alive(void)
{
	__u32 zero = 0;
	const __u64 *at = bpf_map_lookup_elem(&heartbeat, &zero);

	return at && (__s64)(bpf_ktime_get_ns() - *at) < (__s64)HEARTBEAT_LIMIT_NS;
}

static __always_inline int is_query(const struct flow *f)
{
	return f->protocol == (f->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
}

/* The field of the transport header with a checksum that addresses or ports are part of; 0 without. */
static __always_inline __u32 checksum_at(const struct flow *f)
{
	switch (f->protocol) {
	case IPPROTO_TCP:
		return 16;
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
		return 6;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return 2;
	default:
		return 0;
	}
}

/* Reads the ports of an answer. Returns 0 when it cannot be one. */
static __always_inline int ports(struct __sk_buff *skb, struct flow *f, __u32 l4)
{
	switch (f->protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
	case IPPROTO_SCTP:
		return !bpf_skb_load_bytes(skb, l4, &f->host_port, 2) && !bpf_skb_load_bytes(skb, l4 + 2, &f->client_port, 2);
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return is_query(f) && !bpf_skb_load_bytes(skb, l4 + 4, &f->host_port, 2) &&
		       !bpf_skb_load_bytes(skb, l4, &f->client_port, 2);
	default:
		return 1;
	}
}

static __always_inline int parse4(struct __sk_buff *skb, struct packet *p, __u32 l3)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, l3, &ip, sizeof(ip)) || ip.ihl < 5)
		return 0;
	p->flow.host.s6_addr32[0] = ip.saddr;
	p->flow.client.s6_addr32[0] = ip.daddr;
	p->flow.protocol = ip.protocol;
	p->l4 = l3 + ip.ihl * 4;
	p->id = ip.id;
	p->later = (ip.frag_off & bpf_htons(IP_OFFSET_MASK)) != 0;
	p->first = !p->later && (ip.frag_off & bpf_htons(IP_MORE_FRAGMENTS));
	return 1;
}

static __always_inline int parse6(struct __sk_buff *skb, struct packet *p, __u32 l3)
{
	struct ipv6hdr ip;
	struct {
		__u8 next, unused;
		__be16 offset;
		__be32 id;
	} fragment;

	if (bpf_skb_load_bytes(skb, l3, &ip, sizeof(ip)))
		return 0;
	p->flow.v6 = 1;
	p->flow.host = ip.saddr;
	p->flow.client = ip.daddr;
	p->flow.protocol = ip.nexthdr;
	p->l4 = l3 + sizeof(ip);
	if (ip.nexthdr != IPPROTO_FRAGMENT)
		return 1;
	if (bpf_skb_load_bytes(skb, p->l4, &fragment, sizeof(fragment)))
		return 0;
	p->flow.protocol = fragment.next;
	p->l4 += sizeof(fragment);
	p->id = fragment.id;
	p->later = (fragment.offset & bpf_htons(IP6_OFFSET_MASK)) != 0;
	p->first = !p->later && (fragment.offset & bpf_htons(IP6_MORE_FRAGMENTS));
	return 1;
}

/* Writes the source address; transport checksums are the caller's. */
static __always_inline void put_source(struct __sk_buff *skb, const struct flow *f, const struct in6_addr *to)
{
	if (f->v6) {
		bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, saddr), to, sizeof(*to), 0);
		return;
	}
	bpf_l3_csum_replace(skb, ETH_HLEN + offsetof(struct iphdr, check), f->host.s6_addr32[0], to->s6_addr32[0], 4);
	bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct iphdr, saddr), to, 4, 0);
}

static __always_inline void put_port(struct __sk_buff *skb, __u32 at, __be16 from, __be16 to, __u32 checksum,
				     __u64 flags)
{
	if (from == to)
		return;
	if (checksum)
		bpf_l4_csum_replace(skb, checksum, from, to, flags | 2);
	bpf_skb_store_bytes(skb, at, &to, 2, 0);
}

/* Tells the worker what it has not been told yet. */
static __always_inline void tell(const struct flow *f, struct origin *o, __u8 seen)
{
	struct event *e;

	if (!(seen & ~o->seen))
		return;
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e)
		return;
	e->flow = *f;
	e->worker = o->worker;
	e->seen = seen;
	e->unused = 0;
	bpf_ringbuf_submit(e, 0);
	o->seen |= seen;
}

static __always_inline void note_fragments(const struct packet *p, const struct in6_addr *host)
{
	struct fragmented key = { .host = p->flow.host, .client = p->flow.client, .id = p->id };

	key.protocol = p->flow.protocol;
	key.v6 = p->flow.v6;
	bpf_map_update_elem(&fragments, &key, host, BPF_ANY);
}

static __always_inline void later_fragment(struct __sk_buff *skb, const struct packet *p)
{
	struct fragmented key = { .host = p->flow.host, .client = p->flow.client, .id = p->id };
	const struct in6_addr *found;
	struct in6_addr host;

	key.protocol = p->flow.protocol;
	key.v6 = p->flow.v6;
	found = bpf_map_lookup_elem(&fragments, &key);
	if (!found)
		return;
	host = *found;
	put_source(skb, &p->flow, &host);
}

static __always_inline void answer(struct __sk_buff *skb, struct packet *p)
{
	struct flow *f = &p->flow;
	__u64 flags = f->protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	__u32 checksum = checksum_at(f);
	struct origin *found, o;
	__u8 seen = ANSWERED, bits;
	__s64 change;

	if (!ports(skb, f, p->l4))
		return;
	found = bpf_map_lookup_elem(&flows, f);
	if (!found)
		return;
	o = *found;
	if (f->protocol == IPPROTO_TCP && !bpf_skb_load_bytes(skb, p->l4 + TCP_FLAGS, &bits, 1)) {
		seen |= bits & TCP_FIN ? FINISHED : 0;
		seen |= bits & TCP_RST ? RESET : 0;
	}
	tell(f, found, seen);
	if (p->first)
		note_fragments(p, &o.host);
	if (checksum)
		checksum += p->l4;
	if (checksum && f->protocol != IPPROTO_ICMP) {
		change = bpf_csum_diff((__be32 *)&f->host, sizeof(f->host), (__be32 *)&o.host, sizeof(o.host), 0);
		bpf_l4_csum_replace(skb, checksum, 0, change, flags | BPF_F_PSEUDO_HDR);
	}
	put_source(skb, f, &o.host);
	if (is_query(f)) {
		put_port(skb, p->l4 + 4, f->host_port, o.host_port, checksum, flags);
		return;
	}
	put_port(skb, p->l4, f->host_port, o.host_port, checksum, flags);
	put_port(skb, p->l4 + 2, f->client_port, o.client_port, checksum, flags);
}

/* Whether the packet is an ICMP error. */
static __always_inline int is_error(struct __sk_buff *skb, const struct packet *p)
{
	__u8 type;

	if (!is_query(&p->flow) || bpf_skb_load_bytes(skb, p->l4, &type, 1))
		return 0;
	return p->flow.v6 ? type < 128 : type == 3 || type == 11 || type == 12;
}

/* Adds to `change` by how much writing `to` over `from` changes a sum that both are part of. */
static __always_inline __s64 changed(__be16 from, __be16 to, __s64 change)
{
	__be32 a = from, b = to;

	return bpf_csum_diff(&a, sizeof(a), &b, sizeof(b), change);
}

/* An ICMP error about a packet of a redirected connection quotes it as the host got it: source and quote
 * become what the client knows. */
static __always_inline void error(struct __sk_buff *skb, struct packet *p)
{
	struct packet quoted = {};
	struct flow *f = &quoted.flow;
	__u32 quote = p->l4 + 8, own = p->l4 + 2, checksum;
	__be16 before = 0, after = 0;
	const struct origin *found;
	struct in6_addr swap;
	struct origin o;
	__u64 flags;
	__u8 type = 0;
	__s64 change = 0, addresses, source;

	if (p->flow.v6 ? !parse6(skb, &quoted, quote) : !parse4(skb, &quoted, quote))
		return;
	if (quoted.later || !ports(skb, f, quoted.l4))
		return;
	/* turned round: the quoted packet went to the host */
	swap = f->host;
	f->host = f->client;
	f->client = swap;
	if (is_query(f)) {
		__builtin_memcpy(&type, &f->client_port, 1);
		type = answer_type(f->v6, type);
		__builtin_memcpy(&f->client_port, &type, 1);
	} else {
		before = f->host_port;
		f->host_port = f->client_port;
		f->client_port = before;
	}
	found = bpf_map_lookup_elem(&flows, f);
	if (!found)
		return;
	o = *found;

	addresses = bpf_csum_diff((__be32 *)&f->host, sizeof(f->host), (__be32 *)&o.host, sizeof(o.host), 0);
	source = bpf_csum_diff((__be32 *)&p->flow.host, sizeof(o.host), (__be32 *)&o.host, sizeof(o.host), 0);
	flags = f->protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	checksum = checksum_at(f);
	if (checksum)
		checksum += quoted.l4;
	/* the quote may end before the checksum, and UDP may have none */
	if (checksum && (bpf_skb_load_bytes(skb, checksum, &before, 2) || (f->protocol == IPPROTO_UDP && !before)))
		checksum = 0;
	if (checksum && f->protocol != IPPROTO_ICMP)
		bpf_l4_csum_replace(skb, checksum, 0, addresses, flags | BPF_F_PSEUDO_HDR);
	if (is_query(f)) {
		put_port(skb, quoted.l4 + 4, f->host_port, o.host_port, checksum, flags);
	} else {
		put_port(skb, quoted.l4, f->client_port, o.client_port, checksum, flags);
		put_port(skb, quoted.l4 + 2, f->host_port, o.host_port, checksum, flags);
		change = changed(f->client_port, o.client_port, change);
	}
	change = changed(f->host_port, o.host_port, change);
	if (checksum && !bpf_skb_load_bytes(skb, checksum, &after, 2))
		change = changed(before, after, change);
	if (f->v6) {
		bpf_skb_store_bytes(skb, quote + offsetof(struct ipv6hdr, daddr), &o.host, sizeof(o.host), 0);
		bpf_l4_csum_replace(skb, own, 0, addresses, 0);
		bpf_l4_csum_replace(skb, own, 0, source, BPF_F_PSEUDO_HDR);
	} else {
		/* a quoted address and its header's checksum change the sum by nothing together */
		bpf_l3_csum_replace(skb, quote + offsetof(struct iphdr, check), f->host.s6_addr32[0], o.host.s6_addr32[0], 4);
		bpf_skb_store_bytes(skb, quote + offsetof(struct iphdr, daddr), &o.host, 4, 0);
	}
	bpf_l4_csum_replace(skb, own, 0, change, 0);
	put_source(skb, &p->flow, &o.host);
}

SEC("classifier")
int sluice_host(struct __sk_buff *skb)
{
	struct packet p = {};
	int ok = 0;

	/* a VLAN's frames have no tag yet: the kernel puts it in on the way to the device */
	if (!is_alive())
		return TC_ACT_UNSPEC;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		ok = parse4(skb, &p, ETH_HLEN);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		ok = parse6(skb, &p, ETH_HLEN);
	if (!ok)
		return TC_ACT_UNSPEC;
	if (p.later)
		later_fragment(skb, &p);
	else if (is_error(skb, &p))
		error(skb, &p);
	else
		answer(skb, &p);
	/* whoever else looks at what leaves comes next */
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
