/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the programs and the driver share. All maps are pinned. Whoever changes what is in them
 * changes LAYOUT in the driver too.
 */
#ifndef BERTH_MAPS_H
#define BERTH_MAPS_H

#include "kernel.h"

enum {
	MAX_NODES = 4096,
	MAX_SERVICES = 65536,
	MAX_PAGES = 1024,
	PAGE_SLOTS = 131072,
	MAX_FRAGMENTS = 8192,
	MAX_STATS = 262144,
	MAX_RANGES = 65536,
};

enum { CONFIG_ON = 1 };

struct configuration {
	__u64 deadline; /* ns of CLOCK_MONOTONIC: after it everything passes */
	__u64 settled;	/* ns of CLOCK_MONOTONIC: until then other nodes may have other tables */
	__u64 seed[2];
	__u32 flags, self; /* self is this node's index */
	__be32 self4, unused;
	__be32 self6[4];
};

struct service_key {
	__u32 addr[4]; /* IPv4 is mapped to IPv6 */
	__be16 port;
	__u8 proto, unused;
};

enum {
	SERVICE_TCP_CHANCE = 1, /* TCP has a second chance */
	SERVICE_UDP_CHANCE = 2,
	SERVICE_LOCAL = 4,    /* ready endpoints are on this node */
	SERVICE_AFFINITY = 8, /* by source only */
	SERVICE_RANGES = 16,  /* only sources in source_ranges */
};

struct service {
	__u32 id, flags;
	__u32 page, start, slots; /* the table: so many slots of a page, from start on */
};

enum { NODE_ALIVE = 1, NODE_RETURNED = 2, NODE_ENCAPSULATE = 4, NODE_DEAD = 8 };

struct node {
	__u64 name; /* a hash, for the driver */
	__u32 flags, ifindex, mtu;
	__be32 addr4;	 /* 0: none */
	__be32 addr6[4]; /* ::: none */
};

struct fragment_key {
	__u32 src[4], dst[4];
	__u32 id, proto;
};

struct stats_key {
	__u32 service;
	__u16 node, reason;
};

struct range_key {
	__u32 prefix_len; /* in bits, of service and addr */
	__u32 service;
	__u32 addr[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct configuration);
	__uint(max_entries, 1);
} config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct service_key);
	__type(value, struct service);
	__uint(max_entries, MAX_SERVICES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} services SEC(".maps");

struct page {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, PAGE_SLOTS);
	__uint(map_flags, BPF_F_MMAPABLE);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__type(key, __u32);
	__uint(max_entries, MAX_PAGES);
	__array(values, struct page);
} tables SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct node);
	__uint(max_entries, MAX_NODES);
} nodes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(key_size, 16);
	__type(value, __u32);
	__uint(max_entries, 2 * MAX_NODES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} node_by_addr SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct range_key);
	__type(value, __u32);
	__uint(max_entries, MAX_RANGES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} source_ranges SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct fragment_key);
	__type(value, __u32);
	__uint(max_entries, MAX_FRAGMENTS);
} fragments SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__type(key, struct stats_key);
	__type(value, __u64);
	__uint(max_entries, MAX_STATS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} stats SEC(".maps");

#endif
