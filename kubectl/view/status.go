package view

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/announcement"
	"github.com/berth-lb/berth/controller/verdict"
	"github.com/berth-lb/berth/internal/version"
	"github.com/berth-lb/berth/kubectl/cluster"
)

// Status is what to look at first.
type Status struct {
	// Problems are what is wrong, one sentence each, the worst first.
	Problems []string `json:"problems,omitempty"`
	Versions Versions `json:"versions"`
	Leader   string   `json:"leader,omitempty"`
	// Controllers and Speakers that are ready, of how many that should be.
	Controllers Count   `json:"controllers"`
	Speakers    Count   `json:"speakers"`
	Services    Count   `json:"services"` // that are announced
	Sessions    Count   `json:"sessions"` // that are established
	Pools       []Pool  `json:"pools,omitempty"`
	Segments    []Owned `json:"segments,omitempty"`
	// Unknown is what could not be read: what depends on it is missing here.
	Unknown []string `json:"unknown,omitempty"`
}

// Versions of the parts.
type Versions struct {
	Plugin     string   `json:"plugin"`
	Speakers   []string `json:"speakers,omitempty"`
	Kubernetes string   `json:"kubernetes"`
}

// Count is how many there are of how many.
type Count struct {
	Are int `json:"are"`
	Of  int `json:"of"`
}

func (c Count) String() string { return fmt.Sprintf("%d of %d", c.Are, c.Of) }

// Owned is a segment, and how many addresses each node answers for there.
type Owned struct {
	Segment string         `json:"segment"`
	Nodes   map[string]int `json:"nodes"`
}

// StatusOf sums a cluster up.
func StatusOf(s *cluster.State) Status {
	snapshot, problems := config.Compile(s.Objects())
	observed := announcement.Observe(s.Nodes, s.Speakers, func(*v1alpha1.Speaker) bool { return false })
	status := Status{
		Versions: Versions{Plugin: version.Number(), Kubernetes: s.ServerVersion},
		Pools:    PoolsOf(s),
		Unknown:  s.Lacks(),
	}
	if s.Uninstalled {
		status.Problems = []string{"Berth is not installed: the API server does not know its kinds"}
		return status
	}
	known := func(add func(), needs ...cluster.Resource) {
		if len(s.Lack(needs...)) == 0 {
			add()
		}
	}
	status.addController(s)
	known(func() { status.addSpeakers(s) }, cluster.Nodes, cluster.Speakers)
	known(func() { status.addServices(s) }, cluster.Services, cluster.Pools)
	known(func() { status.addSessions(s, snapshot, observed) }, cluster.BGPNeighbors, cluster.Nodes, cluster.Speakers)
	known(func() { status.addConfiguration(s, problems) }, cluster.Pools, cluster.BGPNeighbors)
	for _, o := range s.Owners {
		segment := o.Status.Segment
		i := slices.IndexFunc(status.Segments, func(x Owned) bool { return x.Segment == segment })
		if i < 0 {
			i = len(status.Segments)
			status.Segments = append(status.Segments, Owned{Segment: segment, Nodes: map[string]int{}})
		}
		status.Segments[i].Nodes[o.Status.NodeName]++
		if s.Node(o.Status.NodeName) == nil && len(s.Lack(cluster.Nodes)) == 0 {
			status.say(
				"%s is answered for on %s by node %s, which does not exist",
				o.Status.Address,
				segment,
				o.Status.NodeName,
			)
		}
	}
	slices.SortFunc(status.Segments, func(a, b Owned) int { return strings.Compare(a.Segment, b.Segment) })
	return status
}

func (st *Status) say(format string, args ...any) {
	st.Problems = append(st.Problems, fmt.Sprintf(format, args...))
}

func (st *Status) addController(s *cluster.State) {
	c := s.Leadership()
	st.Controllers, st.Leader = Count{int(c.Ready), int(c.Wanted)}, c.Holder
	switch {
	case c.Unknown:
	case !c.Installed && !c.Leads(s.Taken):
		st.say("there is no controller in namespace %s", s.Namespace)
	case c.Installed && c.Ready == 0:
		st.say("no controller is ready (0 of %d): nothing that changes is decided", c.Wanted)
	case !c.Leads(s.Taken):
		st.say("no controller leads: nothing that changes is decided")
	case c.Ready < c.Wanted:
		st.say("%d of %d controllers are ready", c.Ready, c.Wanted)
	}
}

func (st *Status) addSpeakers(s *cluster.State) {
	versions := map[string]bool{}
	for _, n := range s.Nodes {
		speaker := find(s.Speakers, func(x *v1alpha1.Speaker) bool { return x.Name == n.Name })
		excluded := candidate.Exclusion(n) != ""
		var state v1alpha1.SpeakerState
		var why string
		if speaker != nil {
			state, why = speaker.Status.State()
			if speaker.Status.Version != "" {
				versions[speaker.Status.Version] = true
			}
		}
		if excluded {
			continue
		}
		st.Speakers.Of++
		switch {
		case candidate.ReadyStatus(n) != corev1.ConditionTrue:
			st.say("node %s is not ready", n.Name)
		case speaker == nil:
			st.say("node %s has no speaker", n.Name)
		case state != v1alpha1.SpeakerAnnouncing:
			st.say("the speaker of node %s is %s: %s", n.Name, state, why)
		default:
			st.Speakers.Are++
		}
		if speaker == nil {
			continue
		}
		for _, p := range speaker.Status.Problems {
			st.say("node %s: %s", n.Name, p.Message)
		}
		for _, x := range speaker.Status.Conflicts {
			st.say("node %s hears another host (%s) announce %s", n.Name, x.MAC, x.Address)
		}
	}
	for v := range versions {
		st.Versions.Speakers = append(st.Versions.Speakers, v)
	}
	slices.Sort(st.Versions.Speakers)
	if len(versions) > 1 {
		st.say("speakers are of %d versions: %s", len(versions), strings.Join(st.Versions.Speakers, ", "))
	}
}

func (st *Status) addServices(s *cluster.State) {
	reasons := map[string]int{}
	for _, row := range ServicesOf(s, "") {
		if row.Others {
			continue
		}
		st.Services.Of++
		if row.Reason == "" {
			st.Services.Are++
		} else {
			reasons[row.Reason]++
		}
	}
	for _, reason := range slices.Sorted(keys(reasons)) {
		st.say("%s: %s (kubectl berth services --problems -A)", counted(reasons[reason], "Service"), reason)
	}
}

func (st *Status) addSessions(s *cluster.State, snapshot *config.Snapshot, observed announcement.Observed) {
	reports := map[string]*v1alpha1.SpeakerStatus{}
	for _, speaker := range s.Speakers {
		reports[speaker.Name] = &speaker.Status
	}
	gathered := verdict.Gather(snapshot, observed.Nodes, reports)
	for _, n := range s.BGPNeighbors {
		described := n.DeepCopy()
		gathered[n.Name].Describe(described)
		counts := described.Status.SessionCounts
		st.Sessions.Are += number(counts.Established)
		st.Sessions.Of += number(counts.Desired)
		if c := meta.FindStatusCondition(described.Status.Conditions, v1alpha1.ConditionEstablished); c != nil &&
			c.Status == metav1.ConditionFalse {
			st.say("BGPNeighbor %s: %s", n.Name, c.Message)
		}
	}
}

func (st *Status) addConfiguration(s *cluster.State, problems map[config.Key][]config.Problem) {
	var texts []string
	for key, all := range problems {
		for _, p := range all {
			if !p.Harmless {
				texts = append(texts, key.Kind+" "+key.Name+": "+p.Message)
			}
		}
	}
	for _, r := range s.Reservations {
		if c := meta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionReady); c != nil &&
			c.Status == metav1.ConditionFalse {
			texts = append(texts, fmt.Sprintf("AddressReservation %s/%s: %s", r.Namespace, r.Name, c.Message))
		}
	}
	for _, p := range s.Pools {
		if c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionExhausted); c != nil &&
			c.Status == metav1.ConditionTrue {
			texts = append(texts, "LoadBalancerPool "+p.Name+": "+c.Message)
		}
	}
	slices.Sort(texts)
	st.Problems = append(st.Problems, texts...)
}
