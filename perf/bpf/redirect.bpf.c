// Forwards every frame of one interface to another with new Ethernet addresses: what XDP in the kernel can do
// at best.
//
// The layout is mirrored in redirect.rs.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>

struct way {
	__u32 from; /* interface indices */
	__u32 to;
	__u8 header[2 * ETH_ALEN]; /* the Ethernet addresses with which it leaves */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct way[2]);
} both SEC(".maps");

SEC("xdp")
int redirect(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 zero = 0;
	struct way *ways = bpf_map_lookup_elem(&both, &zero);

	if (!ways || data + sizeof(struct ethhdr) > end)
		return XDP_DROP;
	for (int i = 0; i < 2; i++) {
		if (ways[i].from == ctx->ingress_ifindex) {
			__builtin_memcpy(data, ways[i].header, sizeof(ways[i].header));
			return bpf_redirect(ways[i].to, 0);
		}
	}
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
