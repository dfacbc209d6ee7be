package speaker

import (
	"context"
	"fmt"
	"reflect"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
)

// Pauses between reports, and after one that was not taken. The longest ones are of large clusters:
// all nodes together write no more than a hundred reports a second for long.
const (
	shortestPause = 300 * time.Millisecond
	longestPause  = 5 * time.Second
	pausePerNode  = 10 * time.Millisecond
	firstAgain    = time.Second
	lastAgain     = 10 * time.Second
	againPerNode  = 20 * time.Millisecond
)

// pace is how long after a report the next one may follow. The pauses double while changes go on:
// when all sessions of all nodes go down one by one, the API server would have a report of each
// node for each.
type pace struct {
	pause time.Duration // after the last report
	last  time.Time     // when it was written
	again time.Duration // after the last failure, if nothing was written since
}

// after returns the pause after a report was written, or had nothing new to write, in a cluster of
// so many nodes.
func (p *pace) after(written bool, now time.Time, nodes int) time.Duration {
	p.again = 0
	if !written {
		return shortestPause
	}
	if now.Sub(p.last) > 2*p.pause { // it was quiet after the pause for as long as that
		p.pause = 0
	}
	longest := min(max(time.Duration(nodes)*pausePerNode, shortestPause), longestPause)
	p.pause, p.last = min(max(2*p.pause, shortestPause), longest), now
	return p.pause
}

// shortest returns how long the next report has to wait at least.
func (p *pace) shortest(now time.Time) time.Duration {
	return max(0, shortestPause-now.Sub(p.last))
}

// afterFailure returns the pause after a report could not be written, in a cluster of so many
// nodes.
func (p *pace) afterFailure(nodes int) time.Duration {
	longest := min(max(time.Duration(nodes)*againPerNode, firstAgain), lastAgain)
	p.again = min(max(2*p.again, firstAgain), longest)
	return p.again
}

// write writes the status of this node's Speaker if it differs from what was written last, and
// makes the object if there is none. It reports whether it wrote the status.
func (r *reporter) write(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, writeAtMost)
	defer cancel()
	r.unserved.SetConflicts(r.foreign.addresses(time.Now())) // without those that are over
	if err := r.findWritten(ctx); err != nil {
		return false, fmt.Errorf("Speaker %s: %w", r.Node, err)
	}
	status := r.compose(r.written.Status.Conditions, r.written.Generation)
	if !r.lag.due(r.written.Status, status, time.Now()) {
		return false, nil
	}
	desired := r.written.DeepCopy()
	desired.TypeMeta = typeMeta("Speaker")
	desired.Status = status
	written, err := r.Berth.Speakers.UpdateStatus(ctx, desired, metav1.UpdateOptions{})
	if err != nil {
		r.written = nil // read it again
		return false, fmt.Errorf("status of Speaker %s: %w", r.Node, err)
	}
	written.Status = status // as we compare it
	r.written = written
	return true, nil
}

// lagAtMost is how long numbers may be a little behind in what is written.
const lagAtMost = 10 * time.Minute

// lag is how long what was written has been behind in numbers only, and little. One speaker that
// restarts, or one new Service, changes a number in the reports of all others: were each written at
// once, the writes would grow with the nodes.
type lag struct{ since time.Time }

// due reports whether a status is to be written, given the one that was written last.
func (l *lag) due(written, status v1alpha1.SpeakerStatus, now time.Time) bool {
	differs, notably := compare(written, status)
	switch {
	case !differs:
		l.since = time.Time{}
		return false
	case notably:
	case l.since.IsZero():
		l.since = now
		return false
	case now.Sub(l.since) < lagAtMost:
		return false
	}
	l.since = time.Time{}
	return true
}

// compare reports whether two statuses differ, and whether in more than numbers that are almost the
// same.
func compare(a, b v1alpha1.SpeakerStatus) (differs, notably bool) {
	if apiequality.Semantic.DeepEqual(a, b) {
		return false, false
	}
	b = *b.DeepCopy()
	before, now := numbers(&a), numbers(&b)
	if len(before) != len(now) {
		return true, true
	}
	for i := range now {
		if notable(*before[i], *now[i]) {
			return true, true
		}
		*now[i] = *before[i]
	}
	return true, !apiequality.Semantic.DeepEqual(a, b)
}

// notable reports whether a number changed by more than an eighth, began or ended to be 0, or began
// or ended to be there.
func notable(before, now *int32) bool {
	if before == nil || now == nil {
		return before != now
	}
	low, high := min(*before, *now), max(*before, *now)
	return low != high && (low == 0 || 8*(high-low) > high)
}

// numbers are the fields that count what comes and goes with other nodes and with Services.
func numbers(s *v1alpha1.SpeakerStatus) []**int32 {
	all := []**int32{&s.AddressesOwned, &s.PrefixesAnnounced, &s.IPVS.VirtualServers, &s.Steering.Ports}
	for i := range s.Segments {
		all = append(all, &s.Segments[i].PeersAlive, &s.Segments[i].AddressesOwned)
	}
	for i := range s.Sessions {
		all = append(all, &s.Sessions[i].Prefixes)
	}
	return all
}

// findWritten makes r.written the object as it is, and makes it belong to the Node.
func (r *reporter) findWritten(ctx context.Context) error {
	if r.rewound.Swap(false) || r.outdated() {
		r.written = nil
	}
	owner := r.owner()
	if r.written == nil {
		found, err := r.Berth.Speakers.Get(ctx, r.Node, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			found, err = r.Berth.Speakers.Create(ctx, &v1alpha1.Speaker{
				TypeMeta:   typeMeta("Speaker"),
				ObjectMeta: metav1.ObjectMeta{Name: r.Node, OwnerReferences: owner},
			}, metav1.CreateOptions{})
		}
		if err != nil {
			return err
		}
		r.written = found
	}
	if reflect.DeepEqual(r.written.OwnerReferences, owner) {
		return nil
	}
	desired := r.written.DeepCopy()
	desired.TypeMeta = typeMeta("Speaker")
	desired.OwnerReferences = owner
	found, err := r.Berth.Speakers.Update(ctx, desired, metav1.UpdateOptions{})
	if err != nil {
		r.written = nil
		return err
	}
	r.written = found
	return nil
}

// outdated reports whether somebody changed, deleted or replaced the object, or we did not see it
// yet.
func (r *reporter) outdated() bool {
	now := r.sources.self(r.Node)
	return r.written != nil && (now.UID != r.written.UID || now.Generation > r.written.Generation)
}

// owner makes the object go with the Node, as the API has it now.
func (r *reporter) owner() []metav1.OwnerReference {
	node := r.sources.node.Get(r.Node)
	if node == nil {
		return nil
	}
	return []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}
}

func typeMeta(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: kind}
}
