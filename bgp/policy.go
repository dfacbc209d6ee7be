package bgp

import (
	"fmt"
	"net/netip"

	"github.com/osrg/gobgp/v4/api"
)

// The policies decide by what is on the path, never by prefix lists. So one changed prefix is one changed
// path: GoBGP compares its old and new markers per peer, and announces or withdraws accordingly. (With
// prefix sets in the policy GoBGP would have to evaluate everything again, and would forget to withdraw
// from a peer that lost the prefix, since it asks the new policy about the old path as well.)
const (
	exportPolicy = "berth-export"
	importPolicy = "berth-import"
)

// policies is the whole set for these peers: a peer gets the paths that carry its marker or everyone's,
// without the marker; nothing else leaves, and only our own paths come in.
func policies(peers []Peer) *api.SetPoliciesRequest {
	req := &api.SetPoliciesRequest{}
	export := &api.Policy{Name: exportPolicy}
	for _, p := range peers {
		neighbour, marked := "peer-"+p.Name, "marked-"+p.Name
		req.DefinedSets = append(req.DefinedSets,
			&api.DefinedSet{
				DefinedType: api.DefinedType_DEFINED_TYPE_NEIGHBOR,
				Name:        neighbour,
				List:        []string{netip.PrefixFrom(p.Address.WithZone(""), p.Address.BitLen()).String()},
			},
			&api.DefinedSet{
				DefinedType: api.DefinedType_DEFINED_TYPE_LARGE_COMMUNITY,
				Name:        marked,
				List:        []string{everyPeer().String(), onlyPeer(p.Name).String()},
			})
		export.Statements = append(export.Statements, &api.Statement{
			Name: "to-" + p.Name,
			Conditions: &api.Conditions{
				NeighborSet:       &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: neighbour},
				LargeCommunitySet: &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: marked},
			},
			Actions: &api.Actions{
				RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT,
				LargeCommunity: &api.CommunityAction{
					Type:        api.CommunityAction_TYPE_REMOVE,
					Communities: []string{fmt.Sprintf("^%d:", uint32(markerASN))},
				},
			},
		})
	}
	own := &api.Policy{Name: importPolicy, Statements: []*api.Statement{{
		Name:       "own",
		Conditions: &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL},
		Actions:    &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT},
	}}}
	req.Policies = []*api.Policy{export, own}
	return req
}

// assignments puts the policies to work, with rejection as the default in both directions.
func assignments() []*api.PolicyAssignment {
	return []*api.PolicyAssignment{
		assignment(exportPolicy, api.PolicyDirection_POLICY_DIRECTION_EXPORT),
		assignment(importPolicy, api.PolicyDirection_POLICY_DIRECTION_IMPORT),
	}
}

func assignment(policy string, direction api.PolicyDirection) *api.PolicyAssignment {
	return &api.PolicyAssignment{
		Name:          "global",
		Direction:     direction,
		Policies:      []*api.Policy{{Name: policy}},
		DefaultAction: api.RouteAction_ROUTE_ACTION_REJECT,
	}
}
