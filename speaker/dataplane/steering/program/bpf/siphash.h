/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012) of the words of a
 * message, of which the last is made by the caller: its remaining bytes, and its length in the
 * highest.
 */
#ifndef BERTH_SIPHASH_H
#define BERTH_SIPHASH_H

#include "kernel.h"

struct siphash {
	__u64 v0, v1, v2, v3;
};

static __always_inline __u64 rotate(__u64 x, int bits) { return x << bits | x >> (64 - bits); }

static __always_inline void sip_round(struct siphash *h)
{
	h->v0 += h->v1;
	h->v2 += h->v3;
	h->v1 = rotate(h->v1, 13) ^ h->v0;
	h->v3 = rotate(h->v3, 16) ^ h->v2;
	h->v0 = rotate(h->v0, 32);
	h->v2 += h->v1;
	h->v0 += h->v3;
	h->v1 = rotate(h->v1, 17) ^ h->v2;
	h->v3 = rotate(h->v3, 21) ^ h->v0;
	h->v2 = rotate(h->v2, 32);
}

static __always_inline void sip_begin(struct siphash *h, const __u64 seed[2])
{
	h->v0 = seed[0] ^ 0x736f6d6570736575ULL;
	h->v1 = seed[1] ^ 0x646f72616e646f6dULL;
	h->v2 = seed[0] ^ 0x6c7967656e657261ULL;
	h->v3 = seed[1] ^ 0x7465646279746573ULL;
}

static __always_inline void sip_word(struct siphash *h, __u64 word)
{
	h->v3 ^= word;
	sip_round(h);
	h->v0 ^= word;
}

static __always_inline __u64 sip_end(struct siphash *h, __u64 last)
{
	sip_word(h, last);
	h->v2 ^= 0xff;
	sip_round(h);
	sip_round(h);
	sip_round(h);
	return h->v0 ^ h->v1 ^ h->v2 ^ h->v3;
}

#endif
