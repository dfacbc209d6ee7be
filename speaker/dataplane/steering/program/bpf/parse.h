/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a packet is: its connection, whether it begins one, and where its IP header is. */
#ifndef BERTH_PARSE_H
#define BERTH_PARSE_H

#include "kernel.h"
#include "maps.h"

enum { ETH_HLEN = 14, IPV4_HLEN = 20, IPV6_HLEN = 40 };
enum { TCP_SYN = 0x02, TCP_ACK = 0x10, TCP_FLAGS_AT = 13 };
enum { IP_MF = 0x2000, IP_OFFSET = 0x1fff, FRAGMENT_OFFSET = 0xfff8, FRAGMENT_MORE = 1 };
enum { MAX_EXTENSIONS = 6 };

struct packet {
	__u32 src[4], dst[4]; /* of the connection: client and Service. IPv4 is mapped to IPv6 */
	__be16 sport, dport;
	__u32 l3; /* where the header is whose TTL counts */
	__u8 proto, ipv6, ttl, tcp_flags;
	__u8 unused[3];
	__u8 tunnel; /* proto and the addresses are those of an encapsulated packet's outer header */
};

/* What comes after the IP headers. */
struct payload {
	__u32 at, id; /* id is of a fragmented packet */
	__u8 proto, fragment;
	__u16 offset; /* of a fragment; 0 is the first */
};

/* Ports of TCP, UDP and SCTP are at the same place. */
static __always_inline int ports(struct __sk_buff *skb, struct packet *p, __u32 at)
{
	__be16 pair[2];

	if (bpf_skb_load_bytes(skb, at, pair, sizeof(pair)))
		return -1;
	p->sport = pair[0];
	p->dport = pair[1];
	if (p->proto == IPPROTO_TCP)
		return bpf_skb_load_bytes(skb, at + TCP_FLAGS_AT, &p->tcp_flags, 1);
	return 0;
}

/* The packet whose beginning an ICMP error quotes went from the Service to the client. */
static __always_inline int quoted_ports(struct __sk_buff *skb, struct packet *p, __u32 at)
{
	__be16 pair[2];

	if (bpf_skb_load_bytes(skb, at, pair, sizeof(pair)))
		return -1;
	p->sport = pair[1];
	p->dport = pair[0];
	p->tcp_flags = TCP_ACK;
	return 0;
}

static __always_inline int has_ports(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_SCTP;
}

/* Only the first fragment has ports. The others find them by its addresses and identification; one
 * that overtook it passes.
 */
static __always_inline int fragment_ports(struct __sk_buff *skb, struct packet *p, const struct payload *l4)
{
	struct fragment_key key = { .id = l4->id, .proto = p->proto };
	__u32 *known, pair;

	__builtin_memcpy(key.src, p->src, sizeof(key.src));
	__builtin_memcpy(key.dst, p->dst, sizeof(key.dst));
	if (l4->offset) {
		known = bpf_map_lookup_elem(&fragments, &key);
		if (!known)
			return -1;
		p->sport = *known >> 16;
		p->dport = *known;
		p->tcp_flags = TCP_ACK;
		return 0;
	}
	if (ports(skb, p, l4->at))
		return -1;
	pair = (__u32)p->sport << 16 | p->dport;
	bpf_map_update_elem(&fragments, &key, &pair, BPF_ANY);
	return 0;
}

static __always_inline int none(const __be32 a[4]) { return !(a[0] | a[1] | a[2] | a[3]); }

static __always_inline void map_ipv4(__u32 to[4], __be32 address)
{
	to[0] = to[1] = 0;
	to[2] = HTONL(0xffff);
	to[3] = address;
}

static __always_inline int ipv4_payload(const struct iphdr *ip, __u32 at, struct payload *l4)
{
	__u16 frag = HTONS(ip->frag_off);

	if (ip->version != 4 || ip->ihl < 5)
		return -1;
	l4->at = at + ip->ihl * 4;
	l4->proto = ip->protocol;
	l4->fragment = !!(frag & (IP_MF | IP_OFFSET));
	l4->offset = frag & IP_OFFSET;
	l4->id = ip->id;
	return 0;
}

static __always_inline int quoted_ipv4(struct __sk_buff *skb, struct packet *p, __u32 at)
{
	struct payload l4 = {};
	struct iphdr ip;
	__u8 type;

	if (bpf_skb_load_bytes(skb, at, &type, 1) || (type != 3 && type != 11 && type != 12))
		return -1;
	at += 8;
	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || ipv4_payload(&ip, at, &l4))
		return -1;
	if (ip.saddr != p->dst[3] || l4.offset || !has_ports(l4.proto))
		return -1;
	p->src[3] = ip.daddr;
	p->proto = l4.proto;
	return quoted_ports(skb, p, l4.at);
}

static __always_inline int parse_ipv4(struct __sk_buff *skb, struct packet *p)
{
	struct payload l4 = {};
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, p->l3, &ip, sizeof(ip)) || ipv4_payload(&ip, p->l3, &l4))
		return -1;
	map_ipv4(p->src, ip.saddr);
	map_ipv4(p->dst, ip.daddr);
	p->ipv6 = 0;
	p->ttl = ip.ttl;
	p->proto = l4.proto;
	p->tunnel = l4.proto == IPPROTO_IPIP && !l4.fragment && ip.ihl == 5;
	if (p->tunnel)
		return 0;
	if (l4.proto == IPPROTO_ICMP && !l4.fragment)
		return quoted_ipv4(skb, p, l4.at);
	if (!has_ports(l4.proto))
		return -1;
	return l4.fragment ? fragment_ports(skb, p, &l4) : ports(skb, p, l4.at);
}

/* Extension headers are skipped. What goes on by a routing header is not for this node. */
static __noinline int ipv6_payload(struct __sk_buff *skb, struct payload *l4)
{
	__u8 h[8];

	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		switch (l4->proto) {
		case IPPROTO_HOPOPTS:
		case IPPROTO_DSTOPTS:
		case IPPROTO_MH:
		case IPPROTO_ROUTING:
			if (bpf_skb_load_bytes(skb, l4->at, h, 4) || (l4->proto == IPPROTO_ROUTING && h[3]))
				return -1;
			l4->at += (h[1] + 1) * 8;
			break;
		case IPPROTO_FRAGMENT:
			if (l4->fragment || bpf_skb_load_bytes(skb, l4->at, h, 8))
				return -1;
			l4->offset = ((__u16)h[2] << 8 | h[3]) & FRAGMENT_OFFSET;
			l4->fragment = l4->offset || h[3] & FRAGMENT_MORE;
			l4->id = (__u32)h[4] << 24 | (__u32)h[5] << 16 | (__u32)h[6] << 8 | h[7];
			l4->at += 8;
			break;
		default:
			return 0;
		}
		l4->proto = h[0];
		if (l4->offset) /* what follows is not a header */
			return 0;
	}
	return -1;
}

static __always_inline int quoted_ipv6(struct __sk_buff *skb, struct packet *p, __u32 at)
{
	struct payload l4 = { .at = at + 8 + IPV6_HLEN };
	struct ipv6hdr ip;
	__u8 type;

	if (bpf_skb_load_bytes(skb, at, &type, 1) || type == 0 || type > 4)
		return -1;
	if (bpf_skb_load_bytes(skb, at + 8, &ip, sizeof(ip)))
		return -1;
	l4.proto = ip.nexthdr;
	if (ipv6_payload(skb, &l4) || l4.offset || !has_ports(l4.proto))
		return -1;
	for (int i = 0; i < 4; i++) {
		if (ip.saddr[i] != p->dst[i])
			return -1;
	}
	__builtin_memcpy(p->src, ip.daddr, sizeof(p->src));
	p->proto = l4.proto;
	return quoted_ports(skb, p, l4.at);
}

static __always_inline int parse_ipv6(struct __sk_buff *skb, struct packet *p)
{
	struct payload l4 = { .at = p->l3 + IPV6_HLEN };
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, p->l3, &ip, sizeof(ip)) || (ip.version_class_flow & 0xf0) != 0x60)
		return -1;
	__builtin_memcpy(p->src, ip.saddr, sizeof(p->src));
	__builtin_memcpy(p->dst, ip.daddr, sizeof(p->dst));
	p->ipv6 = 1;
	p->ttl = ip.hop_limit;
	p->proto = ip.nexthdr;
	p->tunnel = ip.nexthdr == IPPROTO_IPV6;
	if (p->tunnel)
		return 0;
	l4.proto = ip.nexthdr;
	if (ipv6_payload(skb, &l4))
		return -1;
	p->proto = l4.proto;
	if (l4.proto == IPPROTO_ICMPV6 && !l4.fragment)
		return quoted_ipv6(skb, p, l4.at);
	if (!has_ports(l4.proto))
		return -1;
	return l4.fragment ? fragment_ports(skb, p, &l4) : ports(skb, p, l4.at);
}

#endif
