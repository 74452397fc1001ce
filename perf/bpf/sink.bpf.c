// Counts the generator's frames where they arrive, and ends them there: nothing behind it costs anything.
// Whatever else comes passes. At the traffic control hook rather than as an XDP program, because an AF_XDP
// socket's frames arrive as skbs, which a veth would first convert for XDP.
//
// The layouts are mirrored in sink.rs.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct expected {
	__u32 source; /* in host byte order */
	__u16 port;
	__u16 unused;
};

struct counts {
	__u64 frames;
	__u64 from_source; /* of them, with the expected source address */
	__u64 known; /* of these, to the port itself and not to the next, where flows of one frame go */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct expected);
} expected SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counts);
} counts SEC(".maps");

SEC("classifier")
int sink(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	struct udphdr *udp = (void *)(ip + 1);
	__u32 zero = 0;
	__u16 port;
	struct expected *e = bpf_map_lookup_elem(&expected, &zero);
	struct counts *c = bpf_map_lookup_elem(&counts, &zero);

	if (!e || !c || (void *)(udp + 1) > end)
		return TC_ACT_OK;
	if (eth->h_proto != bpf_htons(ETH_P_IP) || ip->protocol != IPPROTO_UDP)
		return TC_ACT_OK;
	port = bpf_ntohs(udp->dest);
	if (port != e->port && port != e->port + 1)
		return TC_ACT_OK;
	c->frames++;
	if (ip->saddr == bpf_htonl(e->source)) {
		c->from_source++;
		c->known += port == e->port;
	}
	return TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
