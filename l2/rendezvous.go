package l2

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
	// rank alike. Finish with a full avalanche (the 64-bit finaliser of MurmurHash3).
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// choose returns the candidate with the highest weight among those that may own the group now, or "" when
// there is none. Equal weights fall to the smaller name.
func choose(group string, candidates []string, may func(node string) bool) string {
	var best string
	var top uint64
	for _, node := range candidates {
		if !may(node) {
			continue
		}
		if w := weight(group, node); best == "" || w > top || w == top && node < best {
			best, top = node, w
		}
	}
	return best
}
