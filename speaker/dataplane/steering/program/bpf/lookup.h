/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the maps say of a packet: all that is decided by and is the same in every program. */
#ifndef BERTH_LOOKUP_H
#define BERTH_LOOKUP_H

#include "decide.h"
#include "kernel.h"
#include "maps.h"
#include "parse.h"
#include "siphash.h"

/* Functions that are not static are verified once each, on their own: as a whole, the program has
 * too many paths. So their pointers may be null as far as the verifier knows.
 */
__noinline int berth_rank(const struct view *v, struct order *o)
{
	if (v && o)
		rank(v, o);
	return 0;
}

__noinline int berth_decide(const struct view *v, const struct order *o, int known, struct verdict *r)
{
	if (v && o && r)
		decide(v, o, known, r);
	return 0;
}

static __always_inline void count(__u32 service, __u16 node, __u16 reason)
{
	struct stats_key key = { service, node, reason };
	__u64 *n = bpf_map_lookup_elem(&stats, &key), one = 1;

	if (n)
		*n += 1;
	else
		bpf_map_update_elem(&stats, &key, &one, BPF_NOEXIST);
}

static __always_inline __u64 pair(__u32 low, __u32 high) { return (__u64)high << 32 | low; }

/* The message is the source's address; unless by source only, also the destination's, the ports and
 * the protocol: as they are in the packet, without padding.
 */
static __always_inline __u32 hash(const struct packet *p, const __u64 seed[2], int by_source)
{
	__u64 rest = p->sport | (__u64)p->dport << 16 | (__u64)p->proto << 32;
	struct siphash h;

	sip_begin(&h, seed);
	if (p->ipv6) {
		sip_word(&h, pair(p->src[0], p->src[1]));
		sip_word(&h, pair(p->src[2], p->src[3]));
		if (by_source)
			return sip_end(&h, 16ULL << 56) >> 32;
		sip_word(&h, pair(p->dst[0], p->dst[1]));
		sip_word(&h, pair(p->dst[2], p->dst[3]));
		return sip_end(&h, rest | 37ULL << 56) >> 32;
	}
	if (by_source)
		return sip_end(&h, p->src[3] | 4ULL << 56) >> 32;
	sip_word(&h, pair(p->src[3], p->dst[3]));
	return sip_end(&h, rest | 13ULL << 56) >> 32;
}

/* look fills in what tables and nodes say of the packet's slot. */
static __always_inline int look(const struct packet *p, const struct service *s, const struct configuration *c,
				struct view *v)
{
	__u32 page = s->page, at;
	void *table = bpf_map_lookup_elem(&tables, &page);
	__u64 *slot;

	if (!table)
		return -1;
	at = s->start + ((__u64)hash(p, c->seed, s->flags & SERVICE_AFFINITY) * s->slots >> 32);
	slot = bpf_map_lookup_elem(table, &at);
	if (!slot)
		return -1;
	v->slot = *(volatile __u64 *)slot;
	v->self = c->self;
#pragma unroll
	for (int i = 0; i < RANKS; i++) {
		__u32 index = v->slot >> 16 * i & NODE;
		struct node *n = bpf_map_lookup_elem(&nodes, &index);
		__u32 flags = n ? n->flags : 0;

		if (flags & NODE_ALIVE || index == c->self)
			v->up |= 1 << i;
		if (flags & NODE_RETURNED)
			v->returned |= 1 << i;
		if (flags & NODE_DEAD)
			v->dead |= 1 << i;
	}
	v->ttl = p->ttl;
	v->local = !!(s->flags & SERVICE_LOCAL);
	if (p->proto == IPPROTO_TCP)
		v->chance = s->flags & SERVICE_TCP_CHANCE && !(p->tcp_flags & TCP_SYN);
	else if (p->proto == IPPROTO_UDP)
		v->chance = v->bounces = !!(s->flags & SERVICE_UDP_CHANCE);
	return 0;
}

static __always_inline int allowed(const struct packet *p, const struct service *s)
{
	struct range_key key = { .prefix_len = 32 + 128, .service = s->id };

	if (!(s->flags & SERVICE_RANGES))
		return 1;
	__builtin_memcpy(key.addr, p->src, sizeof(key.addr));
	return !!bpf_map_lookup_elem(&source_ranges, &key);
}

/* from_node reports whether an encapsulated packet comes from a node, to this one. */
static __always_inline int from_node(const struct packet *p, const struct configuration *c)
{
	if (!bpf_map_lookup_elem(&node_by_addr, p->src))
		return 0;
	if (!p->ipv6)
		return p->dst[3] == c->self4;
	return p->dst[0] == c->self6[0] && p->dst[1] == c->self6[1] && p->dst[2] == c->self6[2] &&
	       p->dst[3] == c->self6[3];
}

#endif
