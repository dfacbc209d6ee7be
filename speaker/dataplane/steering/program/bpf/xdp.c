// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Steering before the kernel makes an skb of a frame: an experiment, which nothing attaches but its
 * benchmark. It does the bulk of what the program at tc does: it sends on what goes to another node of
 * the segment. All else passes as it came, and so to the program at tc, which has the same maps.
 */
#include "kernel.h"

/* The parser reads frames by these names. */
#define __sk_buff xdp_md
#define bpf_skb_load_bytes bpf_xdp_load_bytes

#include "lookup.h"

/* The interface's address: nobody says here for whom a frame is. */
volatile const __u8 mac[6];

struct ethhdr {
	__u8 to[6], from[6];
	__be16 type;
};

static __always_inline int for_us(const struct ethhdr *eth)
{
#pragma unroll
	for (int i = 0; i < 6; i++) {
		if (eth->to[i] != mac[i])
			return 0;
	}
	return 1;
}

__noinline int berth_parse(struct xdp_md *frame, struct packet *p)
{
	struct ethhdr eth;

	if (!p || bpf_xdp_load_bytes(frame, 0, &eth, ETH_HLEN) || !for_us(&eth))
		return -1;
	if (eth.type == HTONS(ETH_P_IP))
		return parse_ipv4(frame, p);
	if (eth.type == HTONS(ETH_P_IPV6))
		return parse_ipv6(frame, p);
	return -1; /* a tag of a VLAN, too */
}

static __always_inline int set_ttl(struct xdp_md *frame, const struct packet *p, __u8 ttl)
{
	struct {
		__u8 ttl, proto;
		__u16 check;
	} h;
	__u32 sum;

	if (p->ipv6)
		return bpf_xdp_store_bytes(frame, p->l3 + 7, &ttl, 1);
	if (bpf_xdp_load_bytes(frame, p->l3 + 8, &h, sizeof(h)))
		return -1;
	if (h.ttl == ttl)
		return 0;
	sum = (__u16)~h.check + (__u16)~(__u16)h.ttl + ttl; /* RFC 1624 */
	sum = (sum & 0xffff) + (sum >> 16);
	h.check = ~((sum & 0xffff) + (sum >> 16));
	h.ttl = ttl;
	return bpf_xdp_store_bytes(frame, p->l3 + 8, &h, sizeof(h));
}

/* steer_to sends the frame to a node, if the kernel knows its MAC address by now. */
static __always_inline int steer_to(struct xdp_md *frame, const struct packet *p, const struct verdict *r)
{
	struct bpf_fib_lookup hop = {};
	struct ethhdr eth;
	__u32 index = r->node;
	struct node *n = bpf_map_lookup_elem(&nodes, &index);

	if (!n || !n->ifindex || n->flags & NODE_ENCAPSULATE || (p->ipv6 ? none(n->addr6) : !n->addr4))
		return XDP_PASS;
	hop.ifindex = n->ifindex;
	hop.tot_len = frame->data_end - frame->data - ETH_HLEN;
	if (p->ipv6) {
		hop.family = AF_INET6;
		__builtin_memcpy(hop.dst, n->addr6, 16);
	} else {
		hop.family = AF_INET;
		hop.dst[0] = n->addr4;
	}
	if (bpf_fib_lookup(frame, &hop, sizeof(hop), BPF_FIB_LOOKUP_OUTPUT) || set_ttl(frame, p, r->ttl))
		return XDP_PASS;
	__builtin_memcpy(eth.to, hop.dmac, 6);
	__builtin_memcpy(eth.from, hop.smac, 6);
	if (bpf_xdp_store_bytes(frame, 0, &eth, 12))
		return XDP_PASS;
	return hop.ifindex == frame->ingress_ifindex ? XDP_TX : bpf_redirect(hop.ifindex, 0);
}

SEC("xdp")
int berth_xdp(struct xdp_md *frame)
{
	struct packet p = { .l3 = ETH_HLEN };
	struct service_key key = {};
	struct verdict r = {};
	struct view v = {};
	struct order o = {};
	struct configuration *c;
	struct service *s;
	__u32 zero = 0;
	__u64 now;
	int verdict;

	if (berth_parse(frame, &p) || p.tunnel)
		return XDP_PASS;
	c = bpf_map_lookup_elem(&config, &zero);
	if (!c)
		return XDP_PASS;
	key.port = p.dport;
	key.proto = p.proto;
	__builtin_memcpy(key.addr, p.dst, sizeof(key.addr));
	s = bpf_map_lookup_elem(&services, &key);
	if (!s || !(c->flags & CONFIG_ON))
		return XDP_PASS;
	now = bpf_ktime_get_coarse_ns();
	if (now > c->deadline || !allowed(&p, s) || look(&p, s, c, &v))
		return XDP_PASS;
	v.held = p.proto == IPPROTO_TCP && now < c->settled;
	berth_rank(&v, &o);
	if (asks(&v, &o))
		return XDP_PASS;
	berth_decide(&v, &o, 0, &r);
	if (r.action != STEER)
		return XDP_PASS;
	verdict = steer_to(frame, &p, &r);
	if (verdict != XDP_PASS)
		count(s->id, r.node, r.reason);
	return verdict;
}

char berth_license[] SEC("license") = "Dual BSD/GPL";
