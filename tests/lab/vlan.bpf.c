// VLANs without the kernel's VLAN driver, which not every kernel has: tags put on and taken off by traffic control.
//
// Compiled with VLAN set, and for a gateway's device with PARENT and DEVICE, the indices of both ends.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

static int is_ours(struct __sk_buff *skb)
{
	return skb->vlan_present && (skb->vlan_tci & 0xfff) == VLAN;
}

/* a host of which every frame is the VLAN's */
SEC("classifier/host_out")
int host_out(struct __sk_buff *skb)
{
	return bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), VLAN) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

SEC("classifier/host_in")
int host_in(struct __sk_buff *skb)
{
	return !is_ours(skb) || bpf_skb_vlan_pop(skb) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

#ifdef PARENT
/* a device beside the one that the tagged frames pass through */
SEC("classifier/device_out")
int device_out(struct __sk_buff *skb)
{
	return bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), VLAN) ? TC_ACT_SHOT : bpf_redirect(PARENT, 0);
}

SEC("classifier/device_in")
int device_in(struct __sk_buff *skb)
{
	if (!is_ours(skb))
		return TC_ACT_UNSPEC;
	return bpf_skb_vlan_pop(skb) ? TC_ACT_SHOT : bpf_redirect(DEVICE, 0);
}
#endif

char LICENSE[] SEC("license") = "Dual MIT/GPL";
