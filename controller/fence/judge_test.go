package fence

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var now = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

// ago returns a time before now.
func ago(d time.Duration) time.Time { return now.Add(-d) }

var (
	lives = Probe{Asked: ago(100 * time.Millisecond), Answered: ago(100 * time.Millisecond)}
	mute  = Probe{
		Asked: ago(100 * time.Millisecond), Answered: ago(20 * time.Second), SilentSince: ago(100 * time.Millisecond),
	}
)

// rackWithDead returns what is known of n nodes, n1 and so on, 0.6 s after the last of them died.
func rackWithDead(n int) Snapshot {
	s := Snapshot{Now: now, Nodes: map[string]Node{}, Fenced: map[string]Fenced{}, Services: map[string]Service{}}
	for i := range n {
		s.Nodes[fmt.Sprintf("n%d", i+1)] = Node{Ready: true, Renewed: ago(5 * time.Second), Probe: lives}
	}
	s.kill(fmt.Sprintf("n%d", n), "n1", "n2")
	return s
}

// kill has a node be dead, reported by some.
func (s *Snapshot) kill(name string, reporters ...string) {
	s.change(name, func(n *Node) { n.Probe = mute })
	for _, r := range reporters {
		s.Reports = append(
			s.Reports,
			Report{Reporter: r, Node: name, Seen: ago(600 * time.Millisecond), Unanswered: true},
		)
	}
}

func (s *Snapshot) change(name string, f func(n *Node)) {
	n := s.Nodes[name]
	f(&n)
	s.Nodes[name] = n
}

func TestJudge(t *testing.T) {
	made := map[Reason]bool{}
	defer func() {
		for _, reason := range Reasons() {
			if !made[reason] {
				t.Errorf("no case is spared for %s", reason)
			}
		}
	}()
	for _, c := range []struct {
		name   string
		nodes  int // 6 unless given
		change func(s *Snapshot)
		dead   string
		spared map[string]Reason
	}{
		{name: "all evidence is there", change: func(*Snapshot) {}, dead: "n6"},
		{name: "the smallest cluster", nodes: 3, change: func(*Snapshot) {}, dead: "n3"},
		{
			name: "half of four are out of reach, and one of them has just renewed its Lease", nodes: 4,
			change: func(s *Snapshot) {
				s.kill("n3", "n1", "n2")
				s.change("n3", func(n *Node) { n.Renewed = ago(100 * time.Millisecond) })
			},
			spared: map[string]Reason{"n3": ReasonLeaseRenewed, "n4": ReasonTooMany},
		},
		{
			name:   "nobody reports",
			change: func(s *Snapshot) { s.Reports = nil },
		},
		{
			name:   "one speaker reports",
			change: func(s *Snapshot) { s.Reports = s.Reports[:1] },
			spared: map[string]Reason{"n6": ReasonTooFewWitnesses},
		},
		{
			name:   "one speaker reports it twice",
			change: func(s *Snapshot) { s.Reports[1].Reporter = "n1" },
			spared: map[string]Reason{"n6": ReasonTooFewWitnesses},
		},
		{
			name:   "the second to report is the node itself",
			change: func(s *Snapshot) { s.Reports[1].Reporter = "n6" },
			spared: map[string]Reason{"n6": ReasonTooFewWitnesses},
		},
		{
			name:   "the second to report is no node",
			change: func(s *Snapshot) { s.Reports[1].Reporter = "n99" },
			spared: map[string]Reason{"n6": ReasonTooFewWitnesses},
		},
		{
			name:   "the second to report is not ready",
			change: func(s *Snapshot) { s.change("n2", func(n *Node) { n.Ready = false }) },
			spared: map[string]Reason{"n6": ReasonTooFewWitnesses},
		},
		{
			name:   "the second to report does not answer the controller",
			change: func(s *Snapshot) { s.change("n2", func(n *Node) { n.Probe = mute }) },
			spared: map[string]Reason{"n6": ReasonTooFewWitnesses},
		},
		{
			name: "the second to report answered a while ago",
			change: func(s *Snapshot) {
				s.change("n2", func(n *Node) { n.Probe.Asked, n.Probe.Answered = ago(time.Minute), ago(time.Minute) })
			},
			spared: map[string]Reason{"n6": ReasonTooFewWitnesses},
		},
		{
			name:   "the second report is old",
			change: func(s *Snapshot) { s.Reports[1].Seen = ago(3 * time.Minute) },
			spared: map[string]Reason{"n6": ReasonTooFewWitnesses},
		},
		{
			name:   "a third says nothing of the kernel yet",
			change: func(s *Snapshot) { s.Reports = append(s.Reports, Report{Reporter: "n3", Node: "n6", Seen: now}) },
			dead:   "n6",
		},
		{
			name:   "the second says nothing of the kernel yet",
			change: func(s *Snapshot) { s.Reports[1].Unanswered = false },
			spared: map[string]Reason{"n6": ReasonPending},
		},
		{
			name:   "the controller has not asked since",
			change: func(s *Snapshot) { s.change("n6", func(n *Node) { n.Probe.Asked = ago(time.Second) }) },
			spared: map[string]Reason{"n6": ReasonPending},
		},
		{
			name:   "two stolen tokens, and the kernel answers the controller",
			change: func(s *Snapshot) { s.change("n6", func(n *Node) { n.Probe = lives }) },
			spared: map[string]Reason{"n6": ReasonKernelAnswers},
		},
		{
			name:   "the kernel has not answered the controller for two minutes",
			change: func(s *Snapshot) { s.change("n6", func(n *Node) { n.Probe.Answered = ago(2 * time.Minute) }) },
			spared: map[string]Reason{"n6": ReasonNeverAnswered},
		},
		{
			name:   "the kernel never answered the controller",
			change: func(s *Snapshot) { s.change("n6", func(n *Node) { n.Probe.Answered = time.Time{} }) },
			spared: map[string]Reason{"n6": ReasonNeverAnswered},
		},
		{
			name:   "the kubelet has no Lease",
			change: func(s *Snapshot) { s.change("n6", func(n *Node) { n.Renewed = time.Time{} }) },
			spared: map[string]Reason{"n6": ReasonNoLease},
		},
		{
			name:   "the kubelet renewed its Lease since",
			change: func(s *Snapshot) { s.change("n6", func(n *Node) { n.Renewed = ago(200 * time.Millisecond) }) },
			spared: map[string]Reason{"n6": ReasonLeaseRenewed},
		},
		{
			name: "a stolen token reported it before, so that the Lease seems renewed since",
			change: func(s *Snapshot) {
				s.Reports = append(s.Reports, Report{Reporter: "n3", Node: "n6", Seen: ago(time.Minute), Unanswered: true})
			},
			dead: "n6",
		},
		{
			name:   "it was fenced and lived",
			change: func(s *Snapshot) { s.Fenced["n6"] = Fenced{Ended: ago(9 * time.Minute)} },
			spared: map[string]Reason{"n6": ReasonRecentlyFenced},
		},
		{
			name:   "it was fenced and lived long ago",
			change: func(s *Snapshot) { s.Fenced["n6"] = Fenced{Ended: ago(11 * time.Minute)} },
			dead:   "n6",
		},
		{
			name:   "it is being fenced",
			change: func(s *Snapshot) { s.Fenced["n6"] = Fenced{Pods: map[string]bool{"a": true}} },
			dead:   "n6",
		},
		{
			name:   "Kubernetes calls it not ready already",
			change: func(s *Snapshot) { s.change("n6", func(n *Node) { n.Ready = false }) },
		},
		{
			name:   "reports of a node that does not exist",
			change: func(s *Snapshot) { s.kill("n7", "n1", "n2"); delete(s.Nodes, "n7") },
			dead:   "n6",
		},
		{
			name: "most others do not answer the controller",
			change: func(s *Snapshot) {
				for _, name := range []string{"n3", "n4", "n5"} {
					s.change(name, func(n *Node) { n.Probe = mute })
				}
			},
			dead: "", spared: map[string]Reason{"n6": ReasonCutOff},
		},
		{
			name: "half of the others do not answer the controller", nodes: 5,
			change: func(s *Snapshot) {
				for _, name := range []string{"n3", "n4"} {
					s.change(name, func(n *Node) { n.Probe = mute })
				}
			},
			spared: map[string]Reason{"n5": ReasonCutOff},
		},
		{
			name:   "a third of the nodes die",
			change: func(s *Snapshot) { s.kill("n5", "n1", "n2") },
			dead:   "n5 n6",
		},
		{
			name:   "more than a third of the nodes are silent: a partition",
			change: func(s *Snapshot) { s.kill("n5", "n1", "n2"); s.kill("n4", "n1", "n2") },
			spared: map[string]Reason{"n4": ReasonTooMany, "n5": ReasonTooMany, "n6": ReasonTooMany},
		},
		{
			name: "more than a third, and one is undecided",
			change: func(s *Snapshot) {
				s.kill("n5", "n1", "n2")
				s.kill("n4", "n1", "n2")
				s.Reports[len(s.Reports)-1].Unanswered = false
			},
			spared: map[string]Reason{"n4": ReasonPending, "n5": ReasonTooMany, "n6": ReasonTooMany},
		},
		{
			name: "others are not ready for long",
			change: func(s *Snapshot) {
				for _, name := range []string{"n4", "n5"} {
					s.change(name, func(n *Node) { n.Ready = false })
				}
			},
			spared: map[string]Reason{"n6": ReasonTooMany},
		},
		{
			name:   "the lists of two speakers are full",
			change: func(s *Snapshot) { s.Reports[0].Full, s.Reports[1].Full = true, true },
			spared: map[string]Reason{"n6": ReasonTooMany},
		},
		{
			name:   "the list of one speaker is full",
			change: func(s *Snapshot) { s.Reports[0].Full = true },
			dead:   "n6",
		},
		{
			name: "one stolen token reports everybody",
			change: func(s *Snapshot) {
				for name := range s.Nodes {
					s.Reports = append(s.Reports, Report{
						Reporter: "n3", Node: name, Seen: ago(time.Second), Unanswered: true, Full: true,
					})
				}
			},
			dead: "n6",
			spared: map[string]Reason{
				"n1": ReasonTooFewWitnesses, "n2": ReasonTooFewWitnesses, "n3": ReasonTooFewWitnesses,
				"n4": ReasonTooFewWitnesses, "n5": ReasonTooFewWitnesses,
			},
		},
		{
			name: "two nodes", nodes: 2, change: func(*Snapshot) {},
			spared: map[string]Reason{"n2": ReasonTooFewWitnesses},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.nodes == 0 {
				c.nodes = 6
			}
			s := rackWithDead(c.nodes)
			c.change(&s)
			v := Judge(s)
			for _, reason := range v.Spared {
				made[reason] = true
			}
			if got := strings.Join(v.Dead, " "); got != c.dead {
				t.Errorf("%q are dead, want %q", got, c.dead)
			}
			if c.spared == nil {
				c.spared = map[string]Reason{}
			}
			if diff := cmp.Diff(c.spared, v.Spared); diff != "" {
				t.Errorf("spared (-want +got):\n%s", diff)
			}
		})
	}
}

func TestJudge_witnesses(t *testing.T) {
	s := rackWithDead(6)
	s.Reports = append(s.Reports, Report{Reporter: "n99", Node: "n6", Seen: now, Unanswered: true})
	if got := Judge(s).Witnesses["n6"]; !slices.Equal(got, []string{"n1", "n2"}) {
		t.Errorf("%v are witnesses", got)
	}
}

func TestChoose(t *testing.T) {
	at := func(nodes ...string) (all []Endpoint) { // each with a pod that is named after the node
		for _, n := range nodes {
			all = append(all, Endpoint{Node: n, Pod: "pod-" + n})
		}
		return all
	}
	for _, c := range []struct {
		name        string
		change      func(s *Snapshot)
		write, kept string
	}{
		{
			name:   "an endpoint lives on another node",
			change: func(s *Snapshot) { s.Services["d/a"] = Service{Endpoints: at("n1", "n6")} },
			write:  "pod-n6",
		},
		{
			name:   "no Service has an endpoint of it",
			change: func(s *Snapshot) { s.Services["d/a"] = Service{Endpoints: at("n1")} },
		},
		{
			name:   "it is the last one",
			change: func(s *Snapshot) { s.Services["d/a"] = Service{Endpoints: at("n6")} },
			kept:   "pod-n6",
		},
		{
			name: "it is the last one of one of two Services",
			change: func(s *Snapshot) {
				s.Services["d/a"], s.Services["d/b"] = Service{Endpoints: at("n6")}, Service{Endpoints: at("n1", "n6")}
			},
			kept: "pod-n6",
		},
		{
			name: "the other one is on a node that is undecided",
			change: func(s *Snapshot) {
				s.kill("n5", "n1", "n2")
				s.Reports[len(s.Reports)-1].Unanswered = false
				s.Services["d/a"] = Service{Endpoints: at("n5", "n6")}
			},
			kept: "pod-n6",
		},
		{
			name: "the other one is on a node that is not ready",
			change: func(s *Snapshot) {
				s.change("n5", func(n *Node) { n.Ready = false })
				s.Services["d/a"] = Service{Endpoints: at("n5", "n6")}
			},
			kept: "pod-n6",
		},
		{
			name: "the other one is on no node",
			change: func(s *Snapshot) {
				s.Services["d/a"] = Service{Endpoints: append(at("n6"), Endpoint{})}
			},
			write: "pod-n6",
		},
		{
			name: "all are on dead nodes",
			change: func(s *Snapshot) {
				s.kill("n5", "n1", "n2")
				s.Services["d/a"] = Service{Endpoints: at("n5", "n6")}
			},
			kept: "pod-n5 pod-n6",
		},
		{
			name: "it is the last one of a Service in another namespace",
			change: func(s *Snapshot) {
				s.Services["d/a"], s.Services["evil/b"] = Service{Endpoints: at("n1", "n6")}, Service{Endpoints: at("n6")}
			},
			write: "pod-n6",
		},
		{
			name: "it was written to before",
			change: func(s *Snapshot) {
				s.Services["d/a"] = Service{Endpoints: at("n1", "n6")}
				s.Fenced["n6"] = Fenced{Pods: map[string]bool{"pod-n6": true}}
			},
		},
		{
			name: "Services with addresses go first",
			change: func(s *Snapshot) {
				s.kill("n5", "n1", "n2")
				s.Services["d/a"] = Service{Endpoints: at("n1", "n5", "n6")}
				s.Services["d/b"] = Service{Endpoints: at("n1", "n6"), First: true}
			},
			write: "pod-n6 pod-n5",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := rackWithDead(6)
			for _, name := range slices.Sorted(maps.Keys(s.Nodes)) {
				s.Pods = append(s.Pods, Pod{Namespace: "d", Name: "pod-" + name, UID: "pod-" + name, Node: name})
			}
			c.change(&s)
			choice := Choose(s, Judge(s))
			names := func(pods []Pod) string {
				var all []string
				for _, p := range pods {
					all = append(all, p.Name)
				}
				return strings.Join(all, " ")
			}
			if got := names(choice.Write); got != c.write {
				t.Errorf("%q are written to, want %q", got, c.write)
			}
			if got := names(choice.Kept); got != c.kept {
				t.Errorf("%q are kept, want %q", got, c.kept)
			}
		})
	}
}
