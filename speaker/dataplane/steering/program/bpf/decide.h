/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The decision about a packet, from what is known of it: no maps, no helpers, so that a program for
 * XDP can have the same. Package decide has it in Go, word for word; a test compares the two.
 */
#ifndef BERTH_DECIDE_H
#define BERTH_DECIDE_H

#include "kernel.h"

/* A slot: four nodes in order of rank, 16 bits each. */
enum {
	RANKS = 4,
	NODE = 0x3fff,	 /* the bits of the node's index */
	MOVED = 0x4000,	 /* in the first rank: the slot moved lately */
	DRAINS = 0x8000, /* the node gets no new connections */
	NOBODY = NODE,
};

/* How often a packet was forwarded, and as what. The TTL carries it, in ranges, and only falls: so a
 * packet is forwarded a few times at most, whatever tables say.
 */
enum {
	FRESH,	   /* from a client, or a router */
	TO_FIRST,  /* to the first in rank */
	CORRECTED, /* to the first in rank, which may have to ask others and not know it */
	SECOND,	   /* to the second chance */
	THIRD,
	LAST,
};

enum action { PASS, STEER, DROP };

/* Why; the numbers are in the keys of the map stats, so they stay. */
enum reason {
	REASON_FIRST = 1,     /* steered to the first in rank */
	REASON_CORRECTED = 2, /* steered to the first in rank, as the sender has another table */
	REASON_SECOND = 3,    /* steered to whom may know the connection */
	REASON_RETURNED = 4,  /* steered to the first in rank, as nobody knows it */
	REASON_LOCAL = 5,     /* here: first in rank, or a new connection */
	REASON_KNOWN = 6,     /* here: conntrack knows the connection */
	REASON_UNKNOWN = 7,   /* here: nobody knows it */
	REASON_EXHAUSTED = 8, /* here: it was forwarded too often */
	REASON_UNSETTLED = 9, /* dropped: nobody knows it, but tables have just changed */
	REASON_TOO_BIG = 10,  /* not sent: encapsulated, it would be too big; its sender is told */
	REASON_NO_PATH = 11,  /* here: the node has no address of the packet's family */
	REASON_SOURCE = 12,   /* here: loadBalancerSourceRanges do not have the source; kube-proxy drops it */
	REASON_NO_TABLE = 13, /* here: the maps have no table, or no rank */
	REASON_DECAPSULATED = 14, /* came encapsulated; counted beside one of the others */
};

struct view {
	__u64 slot;
	__u16 self;
	__u8 up;       /* bit i: the node of rank i is alive, or is this one */
	__u8 returned; /* bit i: the node of rank i was thought dead lately */
	__u8 ttl;
	__u8 local;    /* ready endpoints are here */
	__u8 chance;   /* it has a second chance: in the middle of a connection, and conntrack can tell */
	__u8 held;     /* tables have just changed, and the sender would try again */
	__u8 bounces;  /* what nobody knows ends at the first in rank even if endpoints are here */
	__u8 dead;     /* bit i: the node of rank i is dead, beyond doubt */
	__u8 unused[6];
};

struct order {
	__u16 first; /* gets what is new */
	__u8 moved;
	__u8 returned; /* the first was thought dead lately, which it need not know itself */
};

/* Whom a node asks about a connection that it does not know. */
struct others {
	__u16 next;  /* in rank */
	__u16 dead;  /* when nobody else is left */
	__u8 ranked; /* how many nodes may know a connection, with the first and this one */
};

struct verdict {
	enum action action;
	enum reason reason;
	__u16 node;
	__u8 ttl, unused;
};

static __always_inline __u8 class_of(__u8 ttl)
{
	return ttl > 24 ? FRESH : ttl <= 8 ? LAST : 7 - ((ttl + 3) >> 2);
}

enum { HIGHEST_THIRD = 12 };

/* The first that does not drain and is not suspected gets what is new. */
static __always_inline void rank(const struct view *v, struct order *o)
{
	__u16 fallback = NOBODY;

	o->first = NOBODY;
	o->returned = 0;
#pragma unroll
	for (int i = 0; i < RANKS; i++) {
		__u16 e = v->slot >> 16 * i, n = e & NODE;
		if (n == NOBODY || e & DRAINS)
			continue;
		if (fallback == NOBODY) {
			fallback = n;
			o->returned = v->returned >> i & 1;
		}
		if (v->up >> i & 1 && o->first == NOBODY)
			o->first = n;
	}
	if (o->first == NOBODY) /* all are suspected: more likely it is this node that is ill */
		o->first = fallback;
	o->moved = !!(v->slot & MOVED) | o->returned | (o->first != fallback);
}

/* How many nodes were asked that are not the first, by the one that asked first. This one is one of
 * them.
 */
static __always_inline __u8 asked(__u8 ttl)
{
	__u8 c = class_of(ttl);

	return c == SECOND ? 1 : c == THIRD ? 2 + HIGHEST_THIRD - ttl : 0;
}

/* A node asks the next one in rank, and the last one the best. Suspects have their turn, so that
 * nodes which suspect different ones leave nobody out. Whoever is dead is asked last, or not at all
 * what may be new (UDP), since it would end there. A node that is not ranked goes by how many were
 * asked before it.
 */
static __always_inline void find_others(const struct view *v, const struct order *o, struct others *w)
{
	__u8 self = RANKS, first = 0, before = asked(v->ttl);
	__u64 ring = 0; /* as a slot has it */

	w->next = w->dead = NOBODY;
	w->ranked = 0;
#pragma unroll
	for (int i = 0; i < RANKS; i++) {
		__u16 n = v->slot >> 16 * i & NODE;
		if (n == NOBODY)
			continue;
		if (n == v->self) {
			self = w->ranked;
		} else if (n == o->first) {
			first = w->ranked;
		} else if (v->dead >> i & 1) {
			if (w->dead == NOBODY && !v->bounces)
				w->dead = n;
			continue;
		}
		ring |= (__u64)n << 16 * w->ranked++;
	}
	if (self == RANKS && w->ranked > 0)
		w->next = ring >> 16 * ((first + (before ? before : 1)) % w->ranked) & NODE;
	else if (w->ranked > 1)
		w->next = ring >> 16 * ((self + 1) % w->ranked) & NODE;
}

/* asks reports whether the verdict depends on what conntrack knows. Asking costs more than all the
 * rest, so only where a connection may be elsewhere than its slot says.
 */
static __always_inline int asks(const struct view *v, const struct order *o)
{
	__u8 c = class_of(v->ttl);

	if (!v->chance || o->first == NOBODY)
		return 0;
	if (c == LAST)
		return 1;
	if (o->first == v->self)
		return o->moved || c >= CORRECTED;
	return c != FRESH;
}

static __always_inline void here(struct verdict *r, enum reason why)
{
	r->action = PASS;
	r->reason = why;
}

static __always_inline void to(struct verdict *r, __u16 node, __u8 class, enum reason why)
{
	r->action = STEER;
	r->reason = why;
	r->node = node;
	r->ttl = 28 - 4 * class;
}

static __always_inline void drop(struct verdict *r)
{
	r->action = DROP;
	r->reason = REASON_UNSETTLED;
}

/* A packet that was forwarded as often as it may be, or that came from a client far away: it still
 * gets to the first, by falling TTLs.
 */
static __always_inline void end(const struct view *v, const struct order *o, int known, struct verdict *r)
{
	int mine = o->first == v->self;

	if (v->chance && known)
		return here(r, REASON_KNOWN);
	if (v->chance && mine && v->held)
		return drop(r);
	if (mine || (!v->chance && v->local) || (v->ttl <= 1 && (!v->chance || v->bounces)))
		return here(r, REASON_EXHAUSTED);
	if (v->bounces && v->local && v->ttl <= 2) /* of two that disagree one has pods, perhaps */
		return here(r, REASON_EXHAUSTED);
	if (v->ttl <= 1) /* tables differ, and each node thinks another one the first */
		return drop(r);
	to(r, o->first, LAST, REASON_CORRECTED);
	r->ttl = v->ttl - 1;
}

/* The TTL at which a packet goes to no further node that may know its connection. */
enum { LOWEST_THIRD = 9 };

/* Sends a packet to the next one that may know its connection. */
static __always_inline void further(const struct view *v, __u16 node, __u8 c, struct verdict *r)
{
	to(r, node, c < SECOND ? SECOND : THIRD, REASON_SECOND);
	if (c == THIRD)
		r->ttl = v->ttl - 1;
}

/* A packet in the middle of a connection that this node does not know. The first asks the next in
 * rank, that one the next, and so on, by falling TTLs of one class, until all were asked that are not
 * the first.
 */
static __always_inline void ask(const struct view *v, const struct order *o, __u8 c, struct verdict *r)
{
	int mine = o->first == v->self, n = asked(v->ttl);
	struct others w;

	if (!mine && c < SECOND)
		return to(r, o->first, c + 1, REASON_CORRECTED);
	find_others(v, o, &w);
	/* After the last one the first is asked, which may not be the one that asked first, and then once
	 * more the one after it: a node that has not heard that it joined is not in its own table, and
	 * guesses its turn. Of two nodes none is left out.
	 */
	if (w.next != NOBODY && (n + 1 < w.ranked || (n < w.ranked && w.ranked > 2) ||
				 (n <= w.ranked && w.next != o->first)))
		return further(v, w.next, c, r);
	if (w.dead != NOBODY && v->ttl > LOWEST_THIRD)
		return further(v, w.dead, c, r);
	/* In the second case another node is the first, by its table, so tables have just changed. */
	if (v->held || (mine && c >= SECOND && !v->bounces))
		return drop(r);
	if (!mine) /* nobody who was asked knows it; the first may by now, or it answers */
		return to(r, o->first, LAST, REASON_RETURNED);
	here(r, REASON_UNKNOWN);
}

static __always_inline void decide(const struct view *v, const struct order *o, int known, struct verdict *r)
{
	__u8 c = class_of(v->ttl);
	int mine = o->first == v->self;

	r->node = v->self;
	r->ttl = v->ttl;
	if (o->first == NOBODY)
		return here(r, REASON_NO_TABLE);
	if (c == LAST)
		return end(v, o, known, r);
	if (c == FRESH && !mine)
		return to(r, o->first, o->returned ? CORRECTED : TO_FIRST, REASON_FIRST);
	if (!v->chance) {
		if (mine || v->local)
			return here(r, REASON_LOCAL);
		return to(r, o->first, c + 1, REASON_CORRECTED);
	}
	if (mine && !o->moved && c < CORRECTED)
		return here(r, REASON_LOCAL);
	if (known)
		return here(r, REASON_KNOWN);
	ask(v, o, c, r);
}

#endif
