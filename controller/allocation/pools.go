package allocation

import (
	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/ipam"
)

// allocations translates the values of the API.
var allocations = map[v1alpha1.Allocation]ipam.Allocation{
	v1alpha1.AllocationAutomatic: ipam.Automatic,
	v1alpha1.AllocationOnRequest: ipam.OnRequest,
	v1alpha1.AllocationDisabled:  ipam.Disabled,
}

// Pools returns the pools of a configuration, as SetPools takes them.
func Pools(snapshot *config.Snapshot) []ipam.Pool {
	pools := make([]ipam.Pool, 0, len(snapshot.Pools))
	for _, p := range snapshot.Pools {
		pools = append(pools, ipam.Pool{
			Name: p.Name, Ranges: p.Ranges, OnRequest: p.OnRequest, Allocation: allocations[p.Allocation],
			ExcludeEdges: p.ExcludeEdges, ShareAcross: p.ShareAcross,
		})
	}
	return pools
}
