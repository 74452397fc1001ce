// The XDP program in front of the AF_XDP sockets: which frames are the workers' and which the kernel's.
//
// The gateway host must stay reachable whatever happens to the daemon, so everything the host handles
// itself (ARP, neighbour discovery, multicast, non-IP, its own addresses) passes to the kernel without
// asking the daemon. Transit traffic goes to the socket of its queue; where there is none it meets the
// configured failure action. Nothing that the kernel would *forward* may pass while that action is
// "drop", or it would leave without policy and translation: see the remark at untag().
//
// A device's untagged frames and each of its VLANs are interfaces of their own, managed or not. Frames of a
// managed VLAN are judged like untagged ones and keep their tag.
//
// One instance is attached to each device and has its own maps. The layouts are mirrored in steer.rs.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "flow.h"

#define MAX_QUEUES 64
#define MAX_LOCAL 4096
#define HEARTBEAT_LIMIT_NS 3000000000ull

#define MAX_VLANS 4096
#define VLAN_ID_MASK 0x0fff
#define VLAN_TAG 4
#define IP_FRAGMENT_MASK 0x3fff /* more fragments, or an offset */
#define DHCP_SERVER_PORT 67
#define DHCP_CLIENT_PORT 68
#define ND_FIRST_TYPE 133 /* router solicitation */
#define ND_LAST_TYPE 137  /* redirect */
#define ND_HOP_LIMIT 255  /* RFC 4861: proves that the packet was not forwarded */

#define FLAG_MANAGED 1     /* the interface is the workers'; all of its frames are the kernel's otherwise */
#define FLAG_ACCEPT_DHCP 2 /* the interface has no IPv4 address yet */

struct interface {
	__u8 mac[ETH_ALEN];
	__u8 flags;
	__u8 unused;
};

struct config {
	struct interface untagged;
	__u8 on_failure;       /* XDP_DROP or XDP_PASS, for transit frames without a socket */
	__u8 has_cookie;       /* frames handed back by the daemon pass here again (generic XDP) */
	__u8 cookie[ETH_ALEN]; /* source address that marks them */
};

enum counter {
	PASSED,          /* the kernel's own business */
	REDIRECTED,      /* to a socket */
	UNATTENDED_HOST, /* to a translated address of the host, passed because no worker is alive */
	FAILED_PASS,     /* transit without a socket, passed to the kernel (open) */
	FAILED_DROP,     /* transit without a socket, dropped (closed) */
	BAD_TAGS,        /* priority tags where they mean nothing, dropped */
	COUNTERS
};

struct counters {
	__u64 value[COUNTERS];
};

enum local { LOCAL_HOST = 1, LOCAL_TRANSLATED = 2 };

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, MAX_QUEUES);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

/* the VLANs of the device by their id; 0 is not used */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_VLANS);
	__type(key, __u32);
	__type(value, struct interface);
} vlans SEC(".maps");

/* CLOCK_MONOTONIC in nanoseconds when the daemon last showed a sign of life */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} heartbeat SEC(".maps");

/* addresses of the host, in network byte order, to enum local */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_LOCAL);
	__type(key, __be32);
	__type(value, __u8);
} local4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_LOCAL);
	__type(key, struct in6_addr);
	__type(value, __u8);
} local6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counters);
} counters SEC(".maps");

/* the map `flows` of host.bpf.c, once there was a redirection to the host */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_HASH);
		__uint(map_flags, BPF_F_NO_PREALLOC);
		__uint(max_entries, MAX_FLOWS);
		/* clang 14 does not describe types that only stand here */
		__uint(key_size, sizeof(struct flow));
		__uint(value_size, sizeof(struct origin));
	});
} redirected SEC(".maps");

enum verdict { TO_KERNEL, TRANSIT, TRANSLATED };

static __always_inline int count(struct counters *c, enum counter which, int action)
{
	c->value[which]++;
	return action;
}

static __always_inline int same_mac(const __u8 *a, const __u8 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3] && a[4] == b[4] && a[5] == b[5];
}

/* A frame the daemon handed to the kernel meets generic XDP like any other. It carries the cookie as its
 * source address and the true one behind its last byte: put that back and let it pass. */
static __always_inline int restore(struct xdp_md *ctx)
{
	__u8 source[ETH_ALEN];
	__u64 length = ctx->data_end - ctx->data;

	if (length < ETH_HLEN + ETH_ALEN || bpf_xdp_load_bytes(ctx, length - ETH_ALEN, source, ETH_ALEN) ||
	    bpf_xdp_store_bytes(ctx, ETH_ALEN, source, ETH_ALEN) || bpf_xdp_adjust_tail(ctx, -ETH_ALEN))
		return XDP_DROP;
	return XDP_PASS;
}

static __always_inline int is_vlan(__be16 type)
{
	return type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD);
}

/* Removes one priority tag (VLAN 0). The kernel treats such a frame as untagged and would forward it, so it
 * must not pass as "some VLAN"; without the tag it is judged like any other. Returns 0 when nothing is left
 * to remove, 1 when a tag was removed, -1 when the frame is of a VLAN proper or cut short. */
static __always_inline int untag(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	__be16 *tag = data + ETH_HLEN;
	__u8 mac[2 * ETH_ALEN];

	if (data + ETH_HLEN + VLAN_TAG > end)
		return data + ETH_HLEN > end || is_vlan(eth->h_proto) ? -1 : 0;
	if (!is_vlan(eth->h_proto))
		return 0;
	if (*tag & bpf_htons(VLAN_ID_MASK))
		return -1;
	__builtin_memcpy(mac, data, sizeof(mac));
	__builtin_memcpy(data + VLAN_TAG, mac, sizeof(mac));
	return bpf_xdp_adjust_head(ctx, VLAN_TAG) ? -1 : 1;
}

/* The VLAN of a frame with a tag of 802.1Q, as an interface; null when the frame is cut short. */
static __always_inline const struct interface *vlan_of(const void *data, const void *end)
{
	const struct ethhdr *eth = data;
	const __be16 *tag = data + ETH_HLEN;
	__u32 id;

	if (data + ETH_HLEN + VLAN_TAG > end || eth->h_proto != bpf_htons(ETH_P_8021Q))
		return 0;
	id = bpf_ntohs(*tag) & VLAN_ID_MASK;
	return bpf_map_lookup_elem(&vlans, &id);
}

/* While the interface has no address, the server's answer goes to the offered one, which is not ours yet. */
static __always_inline int is_dhcp_answer(const struct iphdr *ip, const void *end)
{
	const struct udphdr *udp = (const void *)ip + ip->ihl * 4;

	return ip->protocol == IPPROTO_UDP && !(ip->frag_off & bpf_htons(IP_FRAGMENT_MASK)) && ip->ihl >= 5 &&
	       (const void *)(udp + 1) <= end && udp->source == bpf_htons(DHCP_SERVER_PORT) &&
	       udp->dest == bpf_htons(DHCP_CLIENT_PORT);
}

/* Whether a packet to the host looks like one of a connection that was redirected to it, or is of one that did:
 * to tell them apart is a worker's task. Fragments are left out. */
static __always_inline int resembles(struct flow *f, const void *transport, const void *end)
{
	const __be16 *port = transport;
	const __u8 *type = transport;
	__u32 zero = 0;
	void *flows = bpf_map_lookup_elem(&redirected, &zero);

	if (!flows || transport + 8 > end)
		return 0;
	switch (f->protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
	case IPPROTO_SCTP:
		f->client_port = port[0];
		f->host_port = port[1];
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		f->client_port = bpf_htons(answer_type(f->v6, type[0]) << 8 | type[1]);
		f->host_port = port[2];
	}
	if (bpf_map_lookup_elem(flows, f))
		return 1;
	f->diverted = 1;
	return !!bpf_map_lookup_elem(flows, f);
}

static __always_inline int resembles4(const struct iphdr *ip, const void *end)
{
	struct flow f = { .protocol = ip->protocol };

	if ((ip->frag_off & bpf_htons(IP_FRAGMENT_MASK)) || ip->ihl < 5)
		return 0;
	f.host.s6_addr32[0] = ip->daddr;
	f.client.s6_addr32[0] = ip->saddr;
	return resembles(&f, (const void *)ip + ip->ihl * 4, end);
}

static __always_inline int resembles6(const struct ipv6hdr *ip, const void *end)
{
	struct flow f = { .host = ip->daddr, .client = ip->saddr, .protocol = ip->nexthdr, .v6 = 1 };

	return resembles(&f, ip + 1, end);
}

static __always_inline enum verdict judge4(const struct iphdr *ip, const void *end, const struct interface *own)
{
	const __u8 *local;

	if ((const void *)(ip + 1) > end)
		return TO_KERNEL;
	if ((ip->daddr & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) || ip->daddr == bpf_htonl(INADDR_BROADCAST))
		return TO_KERNEL;
	local = bpf_map_lookup_elem(&local4, &ip->daddr);
	if (local)
		return *local == LOCAL_TRANSLATED || resembles4(ip, end) ? TRANSLATED : TO_KERNEL;
	if ((own->flags & FLAG_ACCEPT_DHCP) && is_dhcp_answer(ip, end))
		return TO_KERNEL;
	return TRANSIT;
}

static __always_inline int is_link_local(const struct in6_addr *a)
{
	return (a->s6_addr32[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

static __always_inline enum verdict judge6(const struct ipv6hdr *ip, const void *end)
{
	const __u8 *type = (const void *)(ip + 1), *local;

	if ((const void *)(ip + 1) > end)
		return TO_KERNEL;
	if (ip->daddr.s6_addr[0] == 0xff || is_link_local(&ip->daddr) || is_link_local(&ip->saddr))
		return TO_KERNEL;
	if (ip->nexthdr == IPPROTO_ICMPV6 && ip->hop_limit == ND_HOP_LIMIT && (const void *)(type + 1) <= end &&
	    *type >= ND_FIRST_TYPE && *type <= ND_LAST_TYPE)
		return TO_KERNEL;
	local = bpf_map_lookup_elem(&local6, &ip->daddr);
	if (local)
		return *local == LOCAL_TRANSLATED || resembles6(ip, end) ? TRANSLATED : TO_KERNEL;
	return TRANSIT;
}

static __always_inline int is_alive(void)
{
	__u32 zero = 0;
	const __u64 *at = bpf_map_lookup_elem(&heartbeat, &zero);

	/* signed: the daemon may have written its sign of life after this clock was read */
	return at && (__s64)(bpf_ktime_get_ns() - *at) < (__s64)HEARTBEAT_LIMIT_NS;
}

SEC("xdp")
int sluice_steer(struct xdp_md *ctx)
{
	__u32 zero = 0;
	const struct config *cfg = bpf_map_lookup_elem(&config, &zero);
	struct counters *c = bpf_map_lookup_elem(&counters, &zero);
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	const struct interface *own;
	struct ethhdr *eth = data;
	enum verdict verdict = TO_KERNEL;
	__be16 *type = data + 2 * ETH_ALEN;
	int tags;

	if (!cfg || !c)
		return XDP_PASS;
	if (data + ETH_HLEN > end)
		return count(c, PASSED, XDP_PASS);
	if (cfg->has_cookie && same_mac(eth->h_source, cfg->cookie))
		return restore(ctx);

	own = &cfg->untagged;
	if (is_vlan(*type)) {
		if (eth->h_dest[0] & 1)
			return count(c, PASSED, XDP_PASS);
		tags = untag(ctx);
		if (tags > 0)
			tags = untag(ctx);
		data = (void *)(long)ctx->data;
		end = (void *)(long)ctx->data_end;
		eth = data;
		type = data + 2 * ETH_ALEN;
		if (data + ETH_HLEN > end)
			return count(c, PASSED, XDP_PASS);
		if (tags < 0) {
			own = vlan_of(data, end);
			type += VLAN_TAG / sizeof(*type);
		} else if (is_vlan(*type)) {
			return count(c, BAD_TAGS, XDP_DROP);
		}
	}
	/* another VLAN, multicast, broadcast, or a frame for somebody else, which the kernel does not forward either */
	if (!own || !(own->flags & FLAG_MANAGED) || !same_mac(eth->h_dest, own->mac))
		return count(c, PASSED, XDP_PASS);
	if ((void *)(type + 2) > end)
		return count(c, PASSED, XDP_PASS);
	/* A priority tag inside a VLAN's tag means nothing, but the kernel would take it off and forward the frame. A
	 * VLAN inside the VLAN is an interface of the kernel's. */
	if (is_vlan(*type))
		return type[1] & bpf_htons(VLAN_ID_MASK) ? count(c, PASSED, XDP_PASS) : count(c, BAD_TAGS, XDP_DROP);

	if (*type == bpf_htons(ETH_P_IP))
		verdict = judge4((void *)(type + 1), end, own);
	else if (*type == bpf_htons(ETH_P_IPV6))
		verdict = judge6((void *)(type + 1), end);

	switch (verdict) {
	case TRANSIT:
		if (bpf_redirect_map(&sockets, ctx->rx_queue_index, cfg->on_failure) == XDP_REDIRECT)
			return count(c, REDIRECTED, XDP_REDIRECT);
		return cfg->on_failure == XDP_PASS ? count(c, FAILED_PASS, XDP_PASS) : count(c, FAILED_DROP, XDP_DROP);
	case TRANSLATED:
		if (is_alive() && bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS) == XDP_REDIRECT)
			return count(c, REDIRECTED, XDP_REDIRECT);
		return count(c, UNATTENDED_HOST, XDP_PASS);
	default:
		return count(c, PASSED, XDP_PASS);
	}
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
