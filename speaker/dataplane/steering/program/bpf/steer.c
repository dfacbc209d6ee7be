// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Steering at tc ingress: a packet for a Service's address goes to the node that its slot says. What
 * passes is left to the kernel, and so to kube-proxy.
 */
#include "decide.h"
#include "kernel.h"
#include "lookup.h"
#include "maps.h"
#include "parse.h"
#include "toobig.h"

/* Whether the kernel has the functions that ask conntrack. The driver says so before it loads the
 * program: kernels before 6.2 cannot be asked by the program if they are of a module.
 */
volatile const __u8 conntrack;

/* berth_known reports whether conntrack has the connection, and translates its destination: there are
 * entries of connections that kube-proxy knows nothing of. One that has ended does not count: by now
 * the client may have another one with the same port, on another node.
 */
__noinline int berth_known(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_ct_opts opts = { .netns_id = -1 };
	struct bpf_sock_tuple tuple = {};
	struct nf_conn *ct;
	int known;

	if (!p)
		return 0;
	if (!conntrack)
		return 0;
	opts.l4proto = p->proto;
	if (p->ipv6) {
		__builtin_memcpy(tuple.ipv6.saddr, p->src, 16);
		__builtin_memcpy(tuple.ipv6.daddr, p->dst, 16);
		tuple.ipv6.sport = p->sport;
		tuple.ipv6.dport = p->dport;
		ct = bpf_skb_ct_lookup(skb, &tuple, sizeof(tuple.ipv6), &opts, sizeof(opts));
	} else {
		tuple.ipv4.saddr = p->src[3];
		tuple.ipv4.daddr = p->dst[3];
		tuple.ipv4.sport = p->sport;
		tuple.ipv4.dport = p->dport;
		ct = bpf_skb_ct_lookup(skb, &tuple, sizeof(tuple.ipv4), &opts, sizeof(opts));
	}
	if (!ct)
		return 0;
	known = ct->status & IPS_DST_NAT &&
		(p->proto != IPPROTO_TCP || ct->proto.tcp.state < TCP_CONNTRACK_TIME_WAIT);
	bpf_ct_release(ct);
	return known;
}

static __always_inline int set_ttl(struct __sk_buff *skb, const struct packet *p, __u8 ttl)
{
	__u32 at = p->l3 + 8;
	__be16 old, new;

	if (p->ipv6)
		return bpf_skb_store_bytes(skb, p->l3 + 7, &ttl, 1, 0);
	if (bpf_skb_load_bytes(skb, at, &old, 2))
		return -1;
	new = (old & HTONS(0x00ff)) | HTONS((__u16)ttl << 8);
	if (bpf_l3_csum_replace(skb, p->l3 + 10, old, new, 2))
		return -1;
	return bpf_skb_store_bytes(skb, at, &new, 2, 0);
}

static __always_inline int encapsulate_ipv4(struct __sk_buff *skb, __be32 from, __be32 to)
{
	struct iphdr outer = { .version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_IPIP };
	__u16 *half = (__u16 *)&outer;
	__u32 sum = 0;

	outer.tot_len = HTONS(skb->len - ETH_HLEN + IPV4_HLEN);
	outer.frag_off = HTONS(0x4000); /* do not fragment */
	outer.saddr = from;
	outer.daddr = to;
#pragma unroll
	for (int i = 0; i < IPV4_HLEN / 2; i++)
		sum += half[i];
	sum = (sum & 0xffff) + (sum >> 16);
	outer.check = ~(sum + (sum >> 16));
	if (bpf_skb_adjust_room(skb, IPV4_HLEN, BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_NO_CSUM_RESET))
		return -1;
	return bpf_skb_store_bytes(skb, ETH_HLEN, &outer, IPV4_HLEN, 0);
}

static __always_inline int encapsulate_ipv6(struct __sk_buff *skb, const __be32 from[4], const __be32 to[4])
{
	struct ipv6hdr outer = { .version_class_flow = HTONL(0x60000000), .nexthdr = IPPROTO_IPV6, .hop_limit = 64 };

	outer.payload_len = HTONS(skb->len - ETH_HLEN);
	__builtin_memcpy(outer.saddr, from, 16);
	__builtin_memcpy(outer.daddr, to, 16);
	if (bpf_skb_adjust_room(skb, IPV6_HLEN, BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 | BPF_F_ADJ_ROOM_NO_CSUM_RESET))
		return -1;
	return bpf_skb_store_bytes(skb, ETH_HLEN, &outer, IPV6_HLEN, 0);
}

/* steer_to sends the packet to a node: with its MAC address on a shared segment, else encapsulated. */
static __always_inline int steer_to(struct __sk_buff *skb, const struct packet *p, const struct configuration *c,
				    const struct verdict *r, enum reason *why)
{
	__u32 index = r->node;
	struct node *n = bpf_map_lookup_elem(&nodes, &index);
	struct bpf_redir_neigh hop = {};
	__u32 outer = p->ipv6 ? IPV6_HLEN : IPV4_HLEN;

	if (!n || !n->ifindex || (p->ipv6 ? none(n->addr6) : !n->addr4)) {
		*why = REASON_NO_PATH;
		return TC_NEXT;
	}
	if (n->flags & NODE_ENCAPSULATE && !skb->gso_size && skb->len - ETH_HLEN + outer > n->mtu) {
		*why = REASON_TOO_BIG;
		return berth_too_big(skb, p, c, n->mtu - outer);
	}
	if (set_ttl(skb, p, r->ttl))
		return TC_SHOT;
	if (n->flags & NODE_ENCAPSULATE) {
		if (p->ipv6 ? encapsulate_ipv6(skb, c->self6, n->addr6) : encapsulate_ipv4(skb, c->self4, n->addr4))
			return TC_SHOT;
		return bpf_redirect_neigh(n->ifindex, 0, 0, 0);
	}
	if (p->ipv6) {
		hop.nh_family = AF_INET6;
		__builtin_memcpy(hop.ipv6_nh, n->addr6, 16);
	} else {
		hop.nh_family = AF_INET;
		hop.ipv4_nh = n->addr4;
	}
	return bpf_redirect_neigh(n->ifindex, &hop, sizeof(hop), 0);
}

/* berth_parse finds out what the packet is, and inside of what it came. */
__noinline int berth_parse(struct __sk_buff *skb, struct packet *p)
{
	if (!p)
		return -1;
	if (skb->protocol == HTONS(ETH_P_IP))
		return parse_ipv4(skb, p);
	if (skb->protocol == HTONS(ETH_P_IPV6))
		return parse_ipv6(skb, p);
	return -1;
}

SEC("tc")
int berth_steer(struct __sk_buff *skb)
{
	struct service_key key = {};
	struct verdict r = {};
	struct packet p = { .l3 = ETH_HLEN };
	struct view v = {};
	struct service *s;
	struct order o = {};
	struct configuration *c;
	enum reason why;
	__u32 zero = 0, outer = 0;
	__u64 now;
	int verdict = TC_NEXT;

	/* Frames for others, which a node in promiscuous mode sees, would be doubled. Those with a tag
	 * come once more, without it, on the VLAN's interface.
	 */
	if (skb->pkt_type != PACKET_HOST || (skb->vlan_present && skb->vlan_tci & 0xfff))
		return TC_NEXT;
	if (berth_parse(skb, &p))
		return TC_NEXT;
	c = bpf_map_lookup_elem(&config, &zero);
	if (!c)
		return TC_NEXT;
	if (p.tunnel) {
		if (!from_node(&p, c))
			return TC_NEXT;
		outer = p.ipv6 ? IPV6_HLEN : IPV4_HLEN;
		p.l3 += outer;
		if (berth_parse(skb, &p) || p.tunnel)
			return TC_NEXT;
	}
	key.port = p.dport;
	key.proto = p.proto;
	__builtin_memcpy(key.addr, p.dst, sizeof(key.addr));
	s = bpf_map_lookup_elem(&services, &key);
	if (!s || !(c->flags & CONFIG_ON))
		return TC_NEXT;
	now = bpf_ktime_get_coarse_ns();
	if (now > c->deadline)
		return TC_NEXT;
	if (outer) {
		if (bpf_skb_adjust_room(skb, -(__s32)outer, BPF_ADJ_ROOM_MAC,
					BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET))
			return TC_SHOT;
		p.l3 = ETH_HLEN;
		count(s->id, c->self, REASON_DECAPSULATED);
	}
	if (!allowed(&p, s)) {
		count(s->id, c->self, REASON_SOURCE);
		return TC_NEXT;
	}
	if (look(&p, s, c, &v)) {
		count(s->id, c->self, REASON_NO_TABLE);
		return TC_NEXT;
	}
	v.held = p.proto == IPPROTO_TCP && now < c->settled;
	berth_rank(&v, &o);
	berth_decide(&v, &o, asks(&v, &o) && berth_known(skb, &p), &r);
	why = r.reason;
	if (r.action == STEER)
		verdict = steer_to(skb, &p, c, &r, &why);
	else if (r.action == DROP)
		verdict = TC_SHOT;
	count(s->id, verdict == TC_NEXT || r.action == DROP ? c->self : r.node, why);
	return verdict;
}

/* Helpers and kfuncs ask for a license compatible with the GPL. */
char berth_license[] SEC("license") = "Dual BSD/GPL";
