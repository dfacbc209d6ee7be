package verb

import (
	"slices"

	"github.com/berth-lb/berth/config/v1alpha1"
)

// Keys are the fingerprints of the hello keys that speakers accept.
func Keys(speakers []*v1alpha1.Speaker) []string {
	var all []string
	for _, s := range speakers {
		all = append(all, s.Status.AcceptedKeys...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Unrotated returns the nodes whose speakers do not sign with a new key alone yet, ascending. The
// keys of before were accepted before. Speakers that have ended do not count.
func Unrotated(speakers []*v1alpha1.Speaker, before []string) []string {
	var nodes []string
	for _, s := range speakers {
		state, _ := s.Status.State()
		if state.Ended() || state == v1alpha1.SpeakerPending {
			continue
		}
		if slices.Contains(before, s.Status.SigningKey) || len(s.Status.AcceptedKeys) != 1 {
			nodes = append(nodes, s.Name)
		}
	}
	slices.Sort(nodes)
	return nodes
}
