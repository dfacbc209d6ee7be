//go:build linux

// Package hollow measures what Berth costs an API server. It runs a hollow cluster, as Kubernetes'
// kubemark does for kubelets: etcd, the API server, Berth's controller and, for each node, the
// three processes of a speaker's Pod are real. The nodes themselves are network namespaces on one
// bridge with a Node object and the heartbeats of a kubelet.
package hollow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Options of a measurement.
type Options struct {
	Nodes    []int // sizes of the cluster, ascending
	Services int   // announced on the segment, at every size of the cluster
	Others   int   // Services of type ClusterIP
	Routed   int   // Services announced by BGP, at the last size; 0: not measured
	// Quiet is how long things settle before something is counted, and Span how long it is counted.
	Quiet, Span time.Duration
	Parts       *regexp.Regexp                                // those that are measured
	Figure      func(name string, value float64, unit string) // takes a figure
	Log         io.Writer
}

// extrapolated is the size of a cluster that the laws are evaluated at.
const extrapolated = 500

// kubeletsEvery is how often a kubelet writes its Node's status when nothing changes.
const kubeletsEvery = 5 * time.Minute

// startAtOnce is how many speakers start at a time: a start takes more than its share of two
// processors, and hellos that are late move addresses.
const startAtOnce = 4

// run is a measurement in progress.
type run struct {
	Options
	*cluster
	laws map[string][]point
}

// Run measures. The process must be Inside.
func Run(ctx context.Context, o Options) (err error) {
	if err := settle(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dir, err := os.MkdirTemp("", "hollow")
	if err != nil {
		return fmt.Errorf("folder of the cluster: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	r := &run{Options: o, laws: map[string][]point{}}
	defer func() {
		if err != nil {
			r.explain(dir)
		}
		cancel() // ends what runs in the folder
	}()
	if r.cluster, err = newCluster(ctx, dir); err != nil {
		return err
	}
	if err := r.configure(ctx); err != nil {
		return err
	}
	return r.measure(ctx)
}

// explain writes the ends of the logs, which are deleted.
func (r *run) explain(dir string) {
	for _, name := range []string{"kube-apiserver", "controller", "speaker-n1"} {
		if text, err := os.ReadFile(filepath.Join(dir, name+".log")); err == nil {
			fmt.Fprintf(r.Log, "--- the end of %s.log\n%s\n", name, text[max(0, len(text)-3000):])
		}
	}
}

func (r *run) measure(ctx context.Context) error {
	for i, size := range r.Nodes {
		if err := r.grow(ctx, size); err != nil {
			return err
		}
		if i == 0 {
			r.say("making %d Services and %d others", r.Services, r.Others)
			if err := errors.Join(
				r.makeServices(ctx, bySegment, 0, r.Services), r.makeServices(ctx, byNobody, 0, r.Others),
			); err != nil {
				return err
			}
		} else if err := r.rebalance(ctx); err != nil {
			return err
		}
		if err := r.atSize(ctx); err != nil {
			return err
		}
	}
	r.extrapolate()
	if r.Routed > 0 {
		return r.routed(ctx)
	}
	return nil
}

func (r *run) say(format string, args ...any) {
	fmt.Fprintf(r.Log, time.Now().Format(time.TimeOnly)+" "+format+"\n", args...)
}

// part measures something that is asked for, while the nodes' Leases are renewed and, unless status
// is 0, their statuses are written that often.
func (r *run) part(ctx context.Context, name string, status time.Duration, do func(context.Context) error) error {
	if r.Parts != nil && !r.Parts.MatchString(name) {
		return nil
	}
	r.say("%s with %d nodes", name, len(r.nodes))
	beating, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- r.beat(beating, status) }()
	err := do(ctx)
	stop()
	if err = errors.Join(err, <-done); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// grow adds nodes until there are so many, and waits until all announce.
func (r *run) grow(ctx context.Context, size int) error {
	r.say("growing to %d nodes", size)
	for len(r.nodes) < size {
		n, err := r.addNode(ctx)
		if err != nil {
			return err
		}
		if err := r.startSpeaker(ctx, n); err != nil {
			return err
		}
		if len(r.nodes)%startAtOnce == 0 {
			if err := r.awaitSpeaker(ctx, n); err != nil {
				return err
			}
		}
	}
	for _, n := range r.nodes {
		if err := r.awaitSpeaker(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// atSize measures everything that grows with nodes or Services.
func (r *run) atSize(ctx context.Context) error {
	suffix := fmt.Sprintf("%dn_%ds", len(r.nodes), r.Services)
	add := func(name string, value float64, unit string) {
		r.Figure("hollow_"+name+"_"+suffix, value, unit)
		r.laws[name] = append(r.laws[name], point{float64(len(r.nodes)), value})
	}
	if err := r.awaitOwners(ctx, r.Services); err != nil {
		return err
	}
	return errors.Join(
		r.part(ctx, "rest", 0, func(ctx context.Context) error { return r.rest(ctx, add) }),
		r.part(ctx, "heartbeats", 10*time.Second, func(ctx context.Context) error { return r.heartbeats(ctx, add) }),
		r.part(ctx, "memory", 0, func(context.Context) error { return r.memory(add) }),
		r.part(ctx, "restart", 0, func(ctx context.Context) error { return r.restart(ctx, add) }),
		r.part(ctx, "death", 0, func(ctx context.Context) error { return r.death(ctx, add) }),
	)
}

type adder func(name string, value float64, unit string)

// wait waits while other things happen.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// speakersBytes returns what all speakers sent and received so far.
func (r *run) speakersBytes() float64 {
	sum := int64(0)
	for _, n := range r.nodes {
		sum += r.meter.bytes(n.address)
	}
	return float64(sum)
}

// count returns what the API server and the wires carried while something was done: writes, and
// bytes of all speakers.
func (r *run) count(ctx context.Context, do func(context.Context) error) (counts, float64, error) {
	before, err := r.scrape(ctx)
	if err != nil {
		return nil, 0, err
	}
	begun := r.speakersBytes()
	if err := do(ctx); err != nil {
		return nil, 0, err
	}
	sent := r.speakersBytes() - begun
	after, err := r.scrape(ctx)
	return after.since(before), sent, err
}

// rest measures a cluster in which nothing happens but Leases.
func (r *run) rest(ctx context.Context, add adder) error {
	if err := wait(ctx, r.Quiet); err != nil {
		return err
	}
	more, sent, err := r.count(ctx, func(ctx context.Context) error { return wait(ctx, r.Span) })
	if err != nil {
		return err
	}
	add("rest_bytes_per_speaker", sent/r.Span.Seconds()/float64(len(r.nodes)), "B/s")
	add("rest_speaker_writes", more.writes("speakers", "status"), "writes")
	r.say("at rest: %s", more)
	return nil
}

// heartbeats measures what the statuses of Nodes cost that kubelets write. They are written each 10
// s instead of each 5 minutes, since the cost of one is looked for.
func (r *run) heartbeats(ctx context.Context, add adder) error {
	if err := wait(ctx, r.Quiet); err != nil {
		return err
	}
	more, sent, err := r.count(ctx, func(ctx context.Context) error { return wait(ctx, r.Span) })
	if err != nil {
		return err
	}
	beats := more.writes("nodes", "status")
	if beats == 0 {
		return errors.New("no Node's status was written")
	}
	rest := r.laws["rest_bytes_per_speaker"]
	idle := 0.0
	if len(rest) > 0 {
		idle = rest[len(rest)-1].value
	}
	together := sent - idle*r.Span.Seconds()*float64(len(r.nodes))
	add("heartbeat_bytes_all_speakers", max(0, together)/beats, "B")
	for _, resource := range slices.Sorted(maps.Keys(more.watched())) {
		r.say("watch events of %s: %.0f B", resource, more.watched()[resource])
	}
	return nil
}

// memory measures the processes of the speakers' Pods.
func (r *run) memory(add adder) error {
	var speakers, hearts, bgps []float64
	for _, n := range r.nodes {
		if n.dead.Load() {
			continue
		}
		speaker, err1 := resident(n.speaker)
		heart, err2 := resident(n.heart)
		bgp, err3 := resident(n.bgp)
		if err := errors.Join(err1, err2, err3); err != nil {
			return err
		}
		speakers, hearts, bgps = append(speakers, speaker), append(hearts, heart), append(bgps, bgp)
	}
	for name, all := range map[string][]float64{"speaker": speakers, "heart": hearts, "bgp": bgps} {
		slices.Sort(all)
		add("memory_"+name, all[len(all)/2], "MiB")
	}
	add("memory_speaker_most", slices.Max(speakers), "MiB")
	return nil
}

// restart measures what one speaker's Pod costs that is replaced, as a rollout does: its own bytes
// until it is quiet, and everybody's writes.
func (r *run) restart(ctx context.Context, add adder) error {
	found, err := r.owners(ctx)
	if err != nil {
		return err
	}
	n := r.busiest(found)
	add("restart_owned", float64(found[n.name]), "addresses")
	var own float64
	more, _, err := r.count(ctx, func(ctx context.Context) error {
		if err := n.stop(); err != nil {
			return err
		}
		before := r.meter.bytes(n.address)
		if err := r.startSpeaker(ctx, n); err != nil {
			return err
		}
		if err := r.awaitSpeaker(ctx, n); err != nil {
			return err
		}
		if err := wait(ctx, r.Quiet); err != nil {
			return err
		}
		own = float64(r.meter.bytes(n.address) - before)
		return wait(ctx, r.Span) // for counts that are written later
	})
	if err != nil {
		return err
	}
	add("start_bytes", own, "B")
	memory, err := resident(n.speaker)
	if err != nil {
		return err
	}
	add("restart_memory_speaker", memory, "MiB") // of one that began with all that there is
	add("restart_speaker_writes", more.writes("speakers", "status"), "writes")
	add("restart_l2owner_writes", more.writes("l2owners", ""), "writes")
	add("restart_service_writes", more.writes("services", "status"), "writes")
	r.say("restart: %s", more)
	return nil
}

// busiest returns the node that owns most addresses.
func (r *run) busiest(owned map[string]int) *node {
	return slices.MaxFunc(r.nodes, func(a, b *node) int { return owned[a.name] - owned[b.name] })
}

// death measures what a node costs that loses its power, and comes back.
func (r *run) death(ctx context.Context, add adder) error {
	found, err := r.owners(ctx)
	if err != nil {
		return err
	}
	n := r.busiest(found)
	add("death_owned", float64(found[n.name]), "addresses")
	var took time.Duration
	more, _, err := r.count(ctx, func(ctx context.Context) error {
		if err := r.kill(ctx, n); err != nil {
			return err
		}
		begun := time.Now()
		if err := r.awaitOwners(ctx, r.Services); err != nil {
			return err
		}
		took = time.Since(begun)
		if err := r.setReady(ctx, n, corev1.ConditionUnknown); err != nil {
			return err
		}
		return wait(ctx, r.Span)
	})
	if err != nil {
		return err
	}
	add("death_owners_written", took.Seconds(), "s")
	add("death_l2owner_writes", more.writes("l2owners", ""), "writes")
	add("death_service_writes", more.writes("services", "status"), "writes")
	add("death_speaker_writes", more.writes("speakers", "status"), "writes")
	r.say("death: %s", more)
	more, _, err = r.count(ctx, func(ctx context.Context) error {
		if err := r.revive(ctx, n); err != nil {
			return err
		}
		if err := r.awaitSpeaker(ctx, n); err != nil {
			return err
		}
		return wait(ctx, r.Span)
	})
	if err != nil {
		return err
	}
	add("return_service_writes", more.writes("services", "status"), "writes")
	add("return_speaker_writes", more.writes("speakers", "status"), "writes")
	r.say("return: %s", more)
	return nil
}

// lawful are the figures that grow with the nodes, by their units.
var lawful = map[string]string{
	"start_bytes": "B", "memory_speaker": "MiB", "memory_heart": "MiB",
}

// extrapolate prints the laws of the nodes, and what they make of many.
func (r *run) extrapolate() {
	for _, name := range slices.Sorted(maps.Keys(lawful)) {
		if law := fit(r.laws[name]); len(r.laws[name]) > 1 {
			r.say("law of %s: %v, size is the number of nodes", name, law)
			figure := fmt.Sprintf("hollow_%s_%dn_%ds_by_law", name, extrapolated, r.Services)
			r.Figure(figure, max(0, law.at(extrapolated)), lawful[name])
		}
	}
	beats, rests := r.laws["heartbeat_bytes_all_speakers"], r.laws["rest_bytes_per_speaker"]
	if len(beats) == 0 || len(rests) == 0 {
		return
	}
	// A heartbeat goes to some speakers, or to all; what a speaker gets at rest does not grow.
	beat, rest := fit(beats), 0.0
	for i := range rests {
		rest += rests[i].value / float64(len(rests))
	}
	const nodes = float64(extrapolated)
	r.say("law of heartbeat_bytes_all_speakers: %v, size is the number of nodes", beat)
	r.Figure(
		fmt.Sprintf("hollow_rest_all_speakers_%dn_by_law", extrapolated),
		nodes*(rest+max(0, beat.at(nodes))/kubeletsEvery.Seconds())/1e6, "MB/s",
	)
}
