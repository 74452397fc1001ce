// Hands frames to the kernel as if their interface had just received them.
//
// The daemon writes a batch of frames into `frames` and runs this program as often as there are frames,
// through BPF_PROG_TEST_RUN with live frames: each run fills one fresh page with the next frame and passes
// it on. One run per system call would cost the setup of a page pool for every frame.
//
// The layouts are mirrored in punt.rs.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>

#define BATCH 64
#define MAX_FRAME 3396 /* what a page holds beside headroom and the kernel's bookkeeping, rounded down */

struct frame {
	__u32 length;
	__u8 bytes[MAX_FRAME];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BATCH);
	__type(key, __u32);
	__type(value, struct frame);
} frames SEC(".maps");

/* index of the next frame to hand over */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} next SEC(".maps");

SEC("xdp")
int sluice_punt(struct xdp_md *ctx)
{
	__u32 zero = 0, length;
	__u32 *index = bpf_map_lookup_elem(&next, &zero);
	struct frame *frame;

	if (!index)
		return XDP_DROP;
	frame = bpf_map_lookup_elem(&frames, index);
	(*index)++;
	if (!frame)
		return XDP_DROP;
	length = frame->length;
	if (length < ETH_HLEN || length > MAX_FRAME)
		return XDP_DROP;
	/* each run begins with an Ethernet header's worth of bytes, the least the kernel allows */
	if (bpf_xdp_adjust_tail(ctx, length - ETH_HLEN) || bpf_xdp_store_bytes(ctx, 0, frame->bytes, length))
		return XDP_DROP;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
