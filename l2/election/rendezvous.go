package election

// weight is the rank of the node for the address by rendezvous hashing (highest random weight). The
// weight of a node does not depend on other nodes, so a death moves only the dead node's addresses.
func weight(key, node string) uint64 {
	// FNV-1a over "key\x00node"; neither can contain a zero byte.
	const offset, prime = 14695981039346656037, 1099511628211
	h := uint64(offset)
	for i := range len(key) {
		h = (h ^ uint64(key[i])) * prime
	}
	h *= prime
	for i := range len(node) {
		h = (h ^ uint64(node[i])) * prime
	}
	// FNV leaves the influence of the last bytes in the low bits. Names that differ only in their
	// last digit would get similar weights.
	return mix(h)
}

// mix is a full avalanche: the 64-bit finalizer of MurmurHash3.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// RanksBefore reports whether node a comes before b among those that are free to take an address:
// by preference, then by weight, then by name.
func RanksBefore(key string, preferred map[string]int32, a, b string) bool {
	if pa, pb := preferred[a], preferred[b]; pa != pb {
		return pa > pb
	}
	if wa, wb := weight(key, a), weight(key, b); wa != wb {
		return wa > wb
	}
	return a < b
}
