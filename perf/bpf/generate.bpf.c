// Makes 64-byte UDP frames (60 bytes and the FCS that nobody sees) of many flows and sends them out of an
// interface, at a given pace. Run by BPF_PROG_TEST_RUN with live frames: each run gets a page and returns a
// redirect. Every byte is written each time, because the pages are recycled and come back as the far end
// left them.
//
// The layouts are mirrored in generate.rs.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define FRAME 60
#define PORT_BITS 14      /* flows of one client */
#define FIRST_PORT 10000  /* of a client */
#define BEGUN_CLIENTS 256 /* those who begin flows of one frame are numbered from here on */
#define BEGUN_SERVERS 128 /* and have so many servers, */
#define BEGUN_MASK ((1u << 26) - 1) /* until they begin the same ones again */
#define BEHIND_NS 200000 /* later than this the lost time is forgotten: making up for it would be a flood */
#define SPINS 100000
#define CLOCK_MASK 63 /* the clock is read once in this many frames */

struct plan {
	__u64 gap_ns; /* from one frame to the next; 0: as fast as can be */
	__u64 due_ns; /* when the next frame is due, CLOCK_MONOTONIC like the next two */
	__u64 first_ns; /* when the first frame was made */
	__u64 last_ns;  /* when the last was, or one shortly before it */
	__u32 flows;
	__u32 next; /* frames so far */
	__u32 ifindex;
	__u32 client; /* address of the first client, in host byte order, like the next */
	__u32 server;
	__u32 spread; /* one frame in so many is of the flows; 1: all are */
	__u32 begun; /* flows of one frame each that were begun in between */
	__u16 port;
	__u8 to[ETH_ALEN];
	__u8 from[ETH_ALEN];
	__u8 unused[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct plan);
} plan SEC(".maps");

struct frame {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
	__u8 data[FRAME - ETH_HLEN - sizeof(struct iphdr) - sizeof(struct udphdr)];
} __attribute__((packed, aligned(4)));

static __always_inline __u16 folded(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static long is_due(__u32 turn, void *due)
{
	return bpf_ktime_get_ns() >= *(__u64 *)due;
}

static __always_inline void wait(struct plan *p)
{
	__u64 now = bpf_ktime_get_ns(), due;

	if (p->due_ns + BEHIND_NS < now)
		p->due_ns = now;
	p->due_ns += p->gap_ns;
	due = p->due_ns;
	if (now < due)
		bpf_loop(SPINS, is_due, &due, 0);
}

SEC("xdp")
int generate(struct xdp_md *ctx)
{
	struct frame *f = (void *)(long)ctx->data;
	__u32 zero = 0, flow, client, server, addresses;
	struct plan *p = bpf_map_lookup_elem(&plan, &zero);
	__u16 length = FRAME - ETH_HLEN, port, to_port, udp_length = length - sizeof(struct iphdr);

	if (!p || (void *)(f + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	if (p->gap_ns)
		wait(p);
	if (!(p->next & CLOCK_MASK)) {
		p->last_ns = bpf_ktime_get_ns();
		if (!p->first_ns)
			p->first_ns = p->last_ns;
	}
	if (p->next++ % p->spread) {
		flow = p->begun++ & BEGUN_MASK;
		client = p->client + BEGUN_CLIENTS + (flow >> PORT_BITS);
		server = p->server + (flow >> PORT_BITS) % BEGUN_SERVERS;
		to_port = p->port + 1;
	} else {
		flow = (p->next - 1) / p->spread % p->flows;
		client = p->client + (flow >> PORT_BITS);
		server = p->server + (flow >> PORT_BITS);
		to_port = p->port;
	}
	port = FIRST_PORT + (flow & ((1 << PORT_BITS) - 1));
	addresses = (client >> 16) + (client & 0xffff) + (server >> 16) + (server & 0xffff);

	__builtin_memcpy(f->eth.h_dest, p->to, ETH_ALEN);
	__builtin_memcpy(f->eth.h_source, p->from, ETH_ALEN);
	f->eth.h_proto = bpf_htons(ETH_P_IP);
	f->ip.version = 4;
	f->ip.ihl = 5;
	f->ip.tos = 0;
	f->ip.tot_len = bpf_htons(length);
	f->ip.id = 0;
	f->ip.frag_off = bpf_htons(0x4000); /* do not fragment */
	f->ip.ttl = 64;
	f->ip.protocol = IPPROTO_UDP;
	f->ip.saddr = bpf_htonl(client);
	f->ip.daddr = bpf_htonl(server);
	f->ip.check = bpf_htons(folded(0x4500 + length + 0x4000 + (64 << 8 | IPPROTO_UDP) + addresses));
	f->udp.source = bpf_htons(port);
	f->udp.dest = bpf_htons(to_port);
	f->udp.len = bpf_htons(udp_length);
	/* the length counts twice: in the header and in the pseudo-header (RFC 768) */
	f->udp.check = bpf_htons(folded(addresses + IPPROTO_UDP + 2 * udp_length + port + to_port));
	if (!f->udp.check)
		f->udp.check = 0xffff;
	__builtin_memset(f->data, 0, sizeof(f->data));
	return bpf_redirect(p->ifindex, 0);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
