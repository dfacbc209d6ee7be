package fence

import (
	"cmp"
	"slices"
	"strings"
)

// Choice says what becomes of the pods of dead nodes that are endpoints of Services.
type Choice struct {
	// Write are to be called not ready, in this order.
	Write []Pod
	// Kept are left as they are: without them, a Service would have no ready endpoint that may live.
	Kept []Pod
}

// Choose says which pods of dead nodes are to be called not ready. Pods that
// are endpoints of no Service are left out: nobody is sent to them.
func Choose(s Snapshot, v Verdict) Choice {
	dead := map[string]bool{}
	for _, name := range v.Dead {
		dead[name] = true
	}
	type use struct{ endpoint, first, last bool }
	// By namespace and UID: a Service may name a pod of another namespace, but has no say in it.
	uses := map[[2]string]use{}
	of := func(p Pod) use { return uses[[2]string{p.Namespace, p.UID}] }
	for key, service := range s.Services {
		namespace, _, _ := strings.Cut(key, "/")
		last := !slices.ContainsFunc(
			service.Endpoints,
			func(e Endpoint) bool { return !v.Out[e.Node] && !dead[e.Node] },
		)
		for _, e := range service.Endpoints {
			if e.Pod != "" {
				id := [2]string{namespace, e.Pod}
				u := uses[id]
				uses[id] = use{endpoint: true, first: u.first || service.First, last: u.last || last}
			}
		}
	}
	var c Choice
	for _, pod := range s.Pods {
		switch u := of(pod); {
		case !dead[pod.Node] || !u.endpoint || s.Fenced[pod.Node].Pods[pod.UID]:
		case u.last:
			c.Kept = append(c.Kept, pod)
		default:
			c.Write = append(c.Write, pod)
		}
	}
	byName := func(a, b Pod) int { return cmp.Compare(a.Key(), b.Key()) }
	slices.SortFunc(c.Kept, byName)
	slices.SortFunc(c.Write, func(a, b Pod) int {
		switch firstA, firstB := of(a).first, of(b).first; {
		case firstA && !firstB:
			return -1
		case firstB && !firstA:
			return 1
		}
		return byName(a, b)
	})
	return c
}
