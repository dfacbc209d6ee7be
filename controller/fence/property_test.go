package fence

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// Whatever is known, nobody is fenced without all evidence, nor beyond the bounds.
func TestJudge_bounds(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	fenced, wrote := 0, 0
	for range 50_000 {
		s := anySnapshot(r)
		v := Judge(s)
		c := Choose(s, v)
		fenced, wrote = fenced+len(v.Dead), wrote+len(c.Write)
		if err := check(s, v, c); err != nil {
			t.Fatalf("seed %d: %v\n%+v\n%+v\n%+v", seed, err, s, v, c)
		}
	}
	if fenced < 1000 || wrote < 1000 {
		t.Errorf("seed %d: only %d nodes fenced and %d pods written to, which shows little", seed, fenced, wrote)
	}
}

// check says what of the rules does not hold. It is written from the rules, not from the code.
func check(s Snapshot, v Verdict, c Choice) error {
	if len(v.Dead)*3 > len(s.Nodes) {
		return fmt.Errorf("%d of %d nodes are fenced", len(v.Dead), len(s.Nodes))
	}
	for _, name := range v.Dead {
		node := s.Nodes[name]
		speakers := map[string]bool{}
		for _, r := range s.Reports {
			if r.Node == name && r.Unanswered && r.Seen.After(node.Renewed) && r.Reporter != name &&
				s.Nodes[r.Reporter].Ready &&
				s.Nodes[r.Reporter].Probe.SilentSince.IsZero() {
				speakers[r.Reporter] = true
			}
		}
		switch {
		case len(speakers) < 2:
			return fmt.Errorf("%s is fenced by the word of %v", name, speakers)
		case !node.Ready:
			return fmt.Errorf("%s is fenced, which Kubernetes calls not ready", name)
		case node.Probe.SilentSince.IsZero() || node.Probe.Answered.IsZero():
			return fmt.Errorf("%s is fenced, which answers, or never did", name)
		case node.Renewed.IsZero():
			return fmt.Errorf("%s is fenced, which has no Lease", name)
		}
	}
	written := map[string]bool{}
	for _, pod := range c.Write {
		written[pod.UID] = true
		if !slices.Contains(v.Dead, pod.Node) || s.Fenced[pod.Node].Pods[pod.UID] {
			return fmt.Errorf("pod %s of %s is written to", pod.UID, pod.Node)
		}
	}
	for name, service := range s.Services {
		left := slices.ContainsFunc(service.Endpoints, func(e Endpoint) bool { return !written[e.Pod] })
		if len(service.Endpoints) > 0 && !left {
			return fmt.Errorf("Service %s has no endpoint any more", name)
		}
	}
	return nil
}

// anySnapshot returns a cluster in which something happened: mostly the whole evidence, of which
// pieces are missing or wrong.
func anySnapshot(r *rand.Rand) Snapshot {
	one := func(in int) bool { return r.IntN(in) == 0 }
	s := rackWithDead(3 + r.IntN(8))
	n := len(s.Nodes)
	any := func() string { return fmt.Sprintf("n%d", 1+r.IntN(n)) }
	for range r.IntN(4) {
		s.kill(any(), any(), any(), any())
	}
	for i := range s.Reports {
		report := &s.Reports[i]
		report.Unanswered, report.Full = !one(8), one(8)
		if one(8) {
			report.Seen = ago(time.Duration(r.IntN(300)) * time.Second)
		}
	}
	for name := range s.Nodes {
		s.change(name, func(node *Node) {
			switch r.IntN(24) {
			case 0:
				node.Ready = false
			case 1:
				node.Renewed = ago(time.Duration(r.IntN(1000)) * time.Millisecond)
			case 2:
				node.Renewed = time.Time{}
			case 3:
				node.Probe = Probe{}
			case 4:
				node.Probe = mute
			case 5:
				node.Probe.Answered = time.Time{}
			}
		})
		s.Fenced[name] = Fenced{Pods: map[string]bool{name + "-0": one(4)}}
		for i := range 2 {
			uid := fmt.Sprintf("%s-%d", name, i)
			s.Pods = append(s.Pods, Pod{Namespace: "d", Name: uid, UID: uid, Node: name})
		}
	}
	for i := range 4 {
		service := Service{First: one(2)}
		for range r.IntN(5) {
			node := any()
			service.Endpoints = append(
				service.Endpoints,
				Endpoint{Node: node, Pod: fmt.Sprintf("%s-%d", node, r.IntN(2))},
			)
		}
		s.Services[fmt.Sprintf("d/s%d", i)] = service
	}
	return s
}
