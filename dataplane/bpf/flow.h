/* Connections that are redirected to the gateway host, as host.bpf.c and steer.bpf.c know them. */

#ifndef SLUICE_FLOW_H
#define SLUICE_FLOW_H

#include <linux/in6.h>
#include <linux/types.h>

#define MAX_FLOWS 65536 /* the daemon sets another number */

/* An answer as the host sends it. For ICMP queries the host's port is the identifier and the client's port
 * type and code; protocols without ports have zeros. */
struct flow {
	struct in6_addr host;
	struct in6_addr client;
	__be16 host_port;
	__be16 client_port;
	__u8 protocol;
	__u8 v6;
	/* The client has asked the host itself, from a port that the host knows another connection by: its
	 * packets are a worker's. */
	__u8 diverted;
	__u8 unused;
};

/* What the client knows the other end by, and its own port. */
struct origin {
	struct in6_addr host;
	__be16 host_port;
	__be16 client_port;
	__u16 worker; /* who owns the connection */
	__u8 seen;    /* enum sight: what the worker has been told of */
	__u8 unused;
};

/* The type of ICMP message that answers a query. */
static __always_inline __u8 answer_type(__u8 v6, __u8 query)
{
	return !v6 && query == 8 ? 0 : query + 1;
}

#endif
