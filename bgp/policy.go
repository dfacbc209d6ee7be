package bgp

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// The policies decide by what is on the path, never by prefix lists. So one changed prefix is one
// changed path: GoBGP compares its old and new markers per peer, and announces or withdraws
// accordingly. (With prefix sets in the policy GoBGP would have to evaluate everything again, and
// would forget to withdraw from a peer that lost the prefix, since it asks the new policy about the
// old path as well.)
const (
	exportPolicy = "berth-export"
	importPolicy = "berth-import"
)

// recipient is a peer with the families of routes that it gets, those of them whose routes point to
// the local end of the session, and where those of the family of beside point to, if there is one.
type recipient struct {
	Peer
	families, toSession []gobgp.Family
	beside              netip.Addr
}

// policies is the whole set for these peers and sets of attributes: a peer gets the paths that
// carry its marker or everyone's, without the marker and with the attributes of the set; nothing
// else leaves, and only our own paths come in.
func policies(peers []recipient, b *attributeSets) *api.SetPoliciesRequest {
	req := &api.SetPoliciesRequest{}
	export := &api.Policy{Name: exportPolicy}
	marked := func(peer, set uint32) string {
		name := fmt.Sprintf("marked-%d-%d", peer, set)
		if !slices.ContainsFunc(req.DefinedSets, func(s *api.DefinedSet) bool { return s.Name == name }) {
			req.DefinedSets = append(req.DefinedSets, &api.DefinedSet{
				DefinedType: api.DefinedType_DEFINED_TYPE_LARGE_COMMUNITY, Name: name, List: []string{marker(peer, set).String()},
			})
		}
		return name
	}
	for _, p := range peers {
		neighbor := "peer-" + p.Label()
		req.DefinedSets = append(req.DefinedSets, &api.DefinedSet{
			DefinedType: api.DefinedType_DEFINED_TYPE_NEIGHBOR, Name: neighbor,
			List: []string{p.Covers().String()},
		})
		of := func(f gobgp.Family) *api.Conditions {
			return &api.Conditions{
				NeighborSet: &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: neighbor},
				AfiSafiIn:   []*api.Family{apiutil.ToApiFamily(f.Afi(), f.Safi())},
			}
		}
		for _, f := range families {
			switch {
			case !slices.Contains(p.families, f):
				export.Statements = append(export.Statements, &api.Statement{
					Name: "no-" + f.String() + "-to-" + p.Label(), Conditions: of(f),
					Actions: &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_REJECT},
				})
			case slices.Contains(p.toSession, f):
				export.Statements = append(export.Statements, &api.Statement{ // and the statements that follow decide
					Name: "hop-of-" + f.String() + "-to-" + p.Label(), Conditions: of(f),
					Actions: &api.Actions{Nexthop: &api.NexthopAction{Self: true}},
				})
			case p.beside.IsValid() && familyOf(p.beside) == f:
				export.Statements = append(export.Statements, &api.Statement{
					Name: "hop-of-" + f.String() + "-to-" + p.Label(), Conditions: of(f),
					Actions: &api.Actions{Nexthop: &api.NexthopAction{Address: p.beside.String()}},
				})
			}
		}
		// A peer's own marker counts, whatever everyone is told.
		for _, to := range []uint32{peerNumber(p.Name), everyone} {
			for _, set := range append(b.known(), asItIs) {
				export.Statements = append(export.Statements, &api.Statement{
					Name: fmt.Sprintf("to-%s-%d-%d", p.Label(), to, set),
					Conditions: &api.Conditions{
						NeighborSet:       &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: neighbor},
						LargeCommunitySet: &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: marked(to, set)},
					},
					Actions: actions(p.Peer, b.sets[set]),
				})
			}
		}
	}
	own := &api.Policy{Name: importPolicy, Statements: []*api.Statement{{
		Name:       "own",
		Conditions: &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL},
		Actions:    &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT},
	}}}
	req.Policies = []*api.Policy{export, own}
	return req
}

// actions accept a path for a peer, without markers and with these attributes.
func actions(p Peer, set Attributes) *api.Actions {
	a := &api.Actions{
		RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT,
		LargeCommunity: &api.CommunityAction{
			Type: api.CommunityAction_TYPE_REMOVE, Communities: []string{fmt.Sprintf("^%d:", uint32(markerASN))},
		},
	}
	if set.MED != nil {
		a.Med = &api.MedAction{Type: api.MedAction_TYPE_REPLACE, Value: int64(*set.MED)}
	}
	if set.LocalPref != nil && *set.LocalPref > 0 && !p.External() { // 0 is on the path
		a.LocalPref = &api.LocalPrefAction{Value: *set.LocalPref}
	}
	if set.Prepend > 0 && p.External() {
		a.AsPrepend = &api.AsPrependAction{Asn: p.LocalASN, Repeat: uint32(set.Prepend)}
	}
	if set.Weight > 0 {
		a.ExtCommunity = &api.CommunityAction{
			Type:        api.CommunityAction_TYPE_ADD,
			Communities: []string{fmt.Sprintf("lb:%d:%d", twoByteAS(p.LocalASN), int64(bandwidth(set)))},
		}
	}
	if members := standard(set); len(members) > 0 {
		a.Community = &api.CommunityAction{Type: api.CommunityAction_TYPE_ADD}
		for _, c := range members {
			a.Community.Communities = append(a.Community.Communities, fmt.Sprintf("%d:%d", c>>16, c&0xffff))
		}
	}
	if members := large(set); len(members) > 0 {
		// Only our markers are on the path: what replaces them strips them.
		a.LargeCommunity = &api.CommunityAction{Type: api.CommunityAction_TYPE_REPLACE}
		for _, c := range members {
			a.LargeCommunity.Communities = append(a.LargeCommunity.Communities, c.String())
		}
	}
	return a
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
