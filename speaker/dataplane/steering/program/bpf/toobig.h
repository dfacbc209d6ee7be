/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A packet that does not fit becomes the ICMP error that says so to its sender (RFC 1191 and 8201). */
#ifndef BERTH_TOOBIG_H
#define BERTH_TOOBIG_H

#include "kernel.h"
#include "maps.h"
#include "parse.h"

enum {
	IP_DF = 0x4000,
	/* Bytes after the IP header that are quoted. Eight would do, but the kernel drops a packet whose
	 * checksum is still to be written if that is not in it: here that of TCP, quoted.
	 */
	QUOTED_L4 = 20,
	ERROR_TTL = 64,
	IPV6_MIN_MTU = 1280,
};

struct icmp_error {
	__u8 type, code;
	__u16 check;
	union {
		struct {
			__be16 unused, mtu;
		} v4;
		__be32 mtu6;
	};
};

static __always_inline __u16 fold(__s64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff);
	return ~((sum & 0xffff) + (sum >> 16));
}

static __always_inline int send_back(struct __sk_buff *skb, __u32 l3_len, const void *header, __u32 len)
{
	__u8 to[6], from[6];

	if (bpf_skb_load_bytes(skb, 0, to, 6) || bpf_skb_load_bytes(skb, 6, from, 6))
		return TC_SHOT;
	if (bpf_skb_change_tail(skb, ETH_HLEN + l3_len + QUOTED_L4, 0) ||
	    bpf_skb_adjust_room(skb, len, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_NO_CSUM_RESET) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, header, len, 0) || bpf_skb_store_bytes(skb, 0, from, 6, 0) ||
	    bpf_skb_store_bytes(skb, 6, to, 6, 0))
		return TC_SHOT;
	return bpf_redirect(skb->ifindex, 0);
}

static __always_inline int too_big_ipv4(struct __sk_buff *skb, const struct packet *p, const struct configuration *c,
					__u32 mtu)
{
	struct {
		struct iphdr ip;
		struct icmp_error icmp;
		struct iphdr quoted;
		__u8 l4[QUOTED_L4];
	} e = {};

	if (bpf_skb_load_bytes(skb, p->l3, &e.quoted, IPV4_HLEN + QUOTED_L4))
		return TC_SHOT;
	/* What may be cut is not told, since nobody here cuts it; nor is anybody told about errors. */
	if (!c->self4 || e.quoted.ihl != 5 || e.quoted.protocol != p->proto || !(HTONS(e.quoted.frag_off) & IP_DF) ||
	    HTONS(e.quoted.frag_off) & (IP_MF | IP_OFFSET))
		return TC_SHOT;
	e.icmp.type = 3;
	e.icmp.code = 4;
	e.icmp.v4.mtu = HTONS(mtu);
	e.icmp.check = fold(bpf_csum_diff(0, 0, &e.icmp, sizeof(e) - IPV4_HLEN, 0));
	e.ip.version = 4;
	e.ip.ihl = 5;
	e.ip.ttl = ERROR_TTL;
	e.ip.protocol = IPPROTO_ICMP;
	e.ip.tot_len = HTONS(sizeof(e));
	e.ip.saddr = c->self4;
	e.ip.daddr = e.quoted.saddr;
	e.ip.check = fold(bpf_csum_diff(0, 0, &e.ip, IPV4_HLEN, 0));
	return send_back(skb, IPV4_HLEN, &e, IPV4_HLEN + sizeof(e.icmp));
}

static __always_inline int too_big_ipv6(struct __sk_buff *skb, const struct packet *p, const struct configuration *c,
					__u32 mtu)
{
	struct {
		struct ipv6hdr ip;
		struct icmp_error icmp;
		struct ipv6hdr quoted;
		__u8 l4[QUOTED_L4];
	} e = {};
	const __u32 len = sizeof(e) - IPV6_HLEN;
	__be32 pseudo[2] = { HTONL(len), HTONL(IPPROTO_ICMPV6) };
	__s64 sum;

	if (bpf_skb_load_bytes(skb, p->l3, &e.quoted, IPV6_HLEN + QUOTED_L4))
		return TC_SHOT;
	if (none(c->self6) || e.quoted.nexthdr != p->proto)
		return TC_SHOT;
	e.icmp.type = 2;
	e.icmp.mtu6 = HTONL(mtu < IPV6_MIN_MTU ? IPV6_MIN_MTU : mtu);
	e.ip.version_class_flow = HTONL(0x60000000);
	e.ip.payload_len = HTONS(len);
	e.ip.nexthdr = IPPROTO_ICMPV6;
	e.ip.hop_limit = ERROR_TTL;
	__builtin_memcpy(e.ip.saddr, c->self6, 16);
	__builtin_memcpy(e.ip.daddr, e.quoted.saddr, 16);
	sum = bpf_csum_diff(0, 0, e.ip.saddr, 32, 0);
	sum = bpf_csum_diff(0, 0, pseudo, sizeof(pseudo), sum);
	e.icmp.check = fold(bpf_csum_diff(0, 0, &e.icmp, len, sum));
	return send_back(skb, IPV6_HLEN, &e, IPV6_HLEN + sizeof(e.icmp));
}

__noinline int berth_too_big(struct __sk_buff *skb, const struct packet *p, const struct configuration *c, __u32 mtu)
{
	if (!p || !c)
		return TC_SHOT;
	return p->ipv6 ? too_big_ipv6(skb, p, c, mtu) : too_big_ipv4(skb, p, c, mtu);
}

#endif
