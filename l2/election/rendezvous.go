package election

// weight is the rank of the node for the address by rendezvous hashing (highest random weight). The
// weight of a node does not depend on other nodes, so a death moves only the dead node's addresses.
func weight(key, node string) uint64 { return weightFrom(hashOf(key), node) }

const fnvOffset, fnvPrime = 14695981039346656037, 1099511628211

// hashOf begins FNV-1a over "key\x00node" with the key. Neither can contain a zero byte.
func hashOf(key string) uint64 {
	h := uint64(fnvOffset)
	for i := range len(key) {
		h = (h ^ uint64(key[i])) * fnvPrime
	}
	return h * fnvPrime
}

// weightFrom is weight, given what hashOf returns for the key.
func weightFrom(h uint64, node string) uint64 {
	for i := range len(node) {
		h = (h ^ uint64(node[i])) * fnvPrime
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
	return before(key, preferred, b)(a)
}

// before returns RanksBefore for other nodes and this one, which it looks at once.
func before(key string, preferred map[string]int32, node string) func(other string) bool {
	h := hashOf(key)
	preference, ours := preferred[node], weightFrom(h, node)
	return func(other string) bool {
		if p := preferred[other]; p != preference {
			return p > preference
		}
		if w := weightFrom(h, other); w != ours {
			return w > ours
		}
		return other < node
	}
}
