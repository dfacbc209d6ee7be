package election

// weight is the rank of node for group by rendezvous hashing (highest random weight): each node's weight
// depends on nobody else, so that a death moves only the dead node's groups.
func weight(group, node string) uint64 {
	// FNV-1a over "group\x00node"; neither name can hold a zero byte.
	const offset, prime = 14695981039346656037, 1099511628211
	h := uint64(offset)
	for i := range len(group) {
		h = (h ^ uint64(group[i])) * prime
	}
	h *= prime
	for i := range len(node) {
		h = (h ^ uint64(node[i])) * prime
	}
	// FNV leaves the last bytes' influence in the low bits: names that differ in their last digit would
	// rank alike.
	return mix(h)
}

// mix is a full avalanche (the 64-bit finaliser of MurmurHash3).
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// before tells whether a node comes before another among those free to take a group: by preference, then by weight,
// then by name.
func RanksBefore(group string, preferred map[string]int32, a, b string) bool {
	if pa, pb := preferred[a], preferred[b]; pa != pb {
		return pa > pb
	}
	if wa, wb := weight(group, a), weight(group, b); wa != wb {
		return wa > wb
	}
	return a < b
}
