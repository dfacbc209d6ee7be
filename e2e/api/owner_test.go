//go:build root

package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/stage"
	"github.com/berth-lb/berth/l2"
	"github.com/berth-lb/berth/speaker/mirror"
)

// makeNode makes a Node that no kubelet keeps, until the test ends.
func makeNode(t *testing.T, name string) {
	t.Helper()
	nodes := scene.Kubernetes.CoreV1().Nodes()
	_, err := nodes.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	must(t, err)
	t.Cleanup(func() {
		if err := nodes.Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
}

// speakerOn returns clients with the rights of the speaker on a node: its token is
// bound to a Pod there, as the kubelet's are.
func speakerOn(t *testing.T, node string) *client.Interface {
	t.Helper()
	own, err := client.New(speakerConfig(t, node))
	must(t, err)
	return own
}

// speakerConfig returns the way to the API server with the rights of the speaker on a node.
func speakerConfig(t *testing.T, node string) *rest.Config {
	t.Helper()
	var bound *authenticationv1.BoundObjectReference
	if node != "" {
		pods := scene.Kubernetes.CoreV1().Pods(stage.Namespace)
		pod, err := pods.Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "speaker-", Namespace: stage.Namespace},
			Spec: corev1.PodSpec{
				NodeName:           node,
				ServiceAccountName: "berth-speaker",
				Containers:         []corev1.Container{{Name: "none", Image: "example.com/none"}},
			},
		}, metav1.CreateOptions{})
		must(t, err)
		t.Cleanup(func() {
			now := int64(0)
			if err := pods.Delete(context.Background(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil &&
				!apierrors.IsNotFound(err) {
				t.Error(err)
			}
		})
		bound = &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID}
	}
	return configOf(t, "berth-speaker", bound)
}

func typeMeta(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: kind}
}

// A speaker writes only in the name of its own node.
func TestSpeakerAdmissionPolicy(t *testing.T) {
	makeNode(t, "n2")
	n1, n2, nowhere := speakerOn(t, "n1"), speakerOn(t, "n2"), speakerOn(t, "")
	admin := scene.Berth

	status := func(by *client.Interface, name string) error {
		_, err := by.Speakers.Create(
			t.Context(), &v1alpha1.Speaker{TypeMeta: typeMeta("Speaker"), ObjectMeta: metav1.ObjectMeta{Name: name}},
			metav1.CreateOptions{},
		)
		return err
	}
	report := func(by *client.Interface, name string) error {
		found, err := admin.Speakers.Get(t.Context(), name, metav1.GetOptions{})
		must(t, err)
		found.TypeMeta, found.Status.Version = typeMeta("Speaker"), found.Status.Version+"x"
		_, err = by.Speakers.UpdateStatus(t.Context(), found, metav1.UpdateOptions{})
		return err
	}
	special := func(by *client.Interface, name string) error {
		found, err := admin.Speakers.Get(t.Context(), name, metav1.GetOptions{})
		must(t, err)
		found.TypeMeta, found.Spec.BGP.RouterID = typeMeta("Speaker"), "10.9.8.7"
		_, err = by.Speakers.Update(t.Context(), found, metav1.UpdateOptions{})
		return err
	}
	touch := func(by *client.Interface, name string) error {
		found, err := admin.Speakers.Get(t.Context(), name, metav1.GetOptions{})
		must(t, err)
		found.TypeMeta, found.OwnerReferences = typeMeta("Speaker"), nil
		_, err = by.Speakers.Update(t.Context(), found, metav1.UpdateOptions{})
		return err
	}
	write := func(by *client.Interface, name string, change func(*v1alpha1.L2Owner)) error {
		found, err := admin.L2Owners.Get(t.Context(), name, metav1.GetOptions{})
		must(t, err)
		found.TypeMeta = typeMeta("L2Owner")
		change(found)
		_, err = by.L2Owners.Update(t.Context(), found, metav1.UpdateOptions{})
		return err
	}
	create := func(by *client.Interface, name, node string, term int64) error {
		_, err := by.L2Owners.Create(t.Context(), &v1alpha1.L2Owner{
			TypeMeta:   typeMeta("L2Owner"),
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Status:     v1alpha1.L2OwnerStatus{NodeName: node, Address: "192.0.2.1", Segment: "s", Term: term},
		}, metav1.CreateOptions{})
		return err
	}
	own := func(by *client.Interface, name, node string) error { return create(by, name, node, 1) }
	move := func(by *client.Interface, name, node string) error {
		return write(by, name, func(o *v1alpha1.L2Owner) {
			o.Status.NodeName = node
			o.Status.Term++
		})
	}
	disown := func(by *client.Interface, name string) error {
		return by.L2Owners.Delete(t.Context(), name, metav1.DeleteOptions{})
	}
	deleteOwnersAfter(t)
	t.Cleanup(func() {
		_, _ = scene.Kubectl(context.Background(), "", "delete", "speakers", "--all")
	})
	// The API server takes a moment to act on a new policy.
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		err := own(n1, "probe", "n2")
		if err == nil {
			must(t, disown(admin, "probe"))
			return errors.New("the policy is not yet in effect")
		}
		return nil
	}))
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		err := status(n1, "probe")
		if err == nil {
			must(t, admin.Speakers.Delete(t.Context(), "probe", metav1.DeleteOptions{}))
			return errors.New("the policy is not yet in effect")
		}
		return nil
	}))
	const (
		notYours  = "a speaker writes the Speaker of its own node only: this one is of "
		notItself = "a speaker owns addresses in the name of its own node only: this L2Owner names "
	)
	for _, step := range []struct {
		name string
		err  error
		want string // in the refusal; empty: allowed
	}{
		{
			name: "n1 reports",
			err:  status(n1, "n1")},
		{
			name: "n1 reports again",
			err:  report(n1, "n1")},
		{
			name: "n1 reports for n2",
			err:  status(n1, "n2"),
			want: notYours + "n2, the token of n1",
		},
		{
			name: "n2 changes n1's report",
			err:  report(n2, "n1"),
			want: notYours + "n1, the token of n2",
		},
		{
			name: "a token without a node reports",
			err:  status(nowhere, "n3"),
			want: notYours + "n3, the token of no node",
		},
		{
			name: "n1 sets its router ID",
			err:  special(n1, "n1"),
			want: "a speaker does not write the spec of its Speaker",
		},
		{
			name: "n1 makes its object belong to the Node",
			err:  touch(n1, "n1")},
		{
			name: "n2 makes it belong to another",
			err:  touch(n2, "n1"),
			want: notYours + "n1, the token of n2",
		},
		{
			name: "an operator sets its router ID",
			err:  special(admin, "n1")},
		{
			name: "n1 makes it belong to the Node again",
			err:  touch(n1, "n1")},
		{
			name: "n1 owns",
			err:  own(n1, "a", "n1")},
		{
			name: "n1 says that n2 owns",
			err:  own(n1, "b", "n2"),
			want: notItself + "n2, the token n1",
		},
		{
			name: "n1 gives to n2",
			err:  move(n1, "a", "n2"),
			want: notItself + "n2, the token n1",
		},
		{
			name: "a token without a node takes",
			err:  move(nowhere, "a", "n2"),
			want: notItself + "n2, the token no node",
		},
		{
			name: "n2 deletes n1's",
			err:  disown(n2, "a"),
			want: notItself + "n1, the token n2",
		},
		{
			name: "n2 takes over",
			err:  move(n2, "a", "n2")},
		{
			name: "n2 gives it to another address",
			err:  write(n2, "a", func(o *v1alpha1.L2Owner) { o.Status.Address = "192.0.2.2" }),
			want: "address: is not changed; an L2Owner is of one address",
		},
		{
			name: "n2 gives it to another segment",
			err:  write(n2, "a", func(o *v1alpha1.L2Owner) { o.Status.Segment = "" }),
			want: "segment: is not changed; an L2Owner is of one segment",
		},
		{
			name: "n2 takes a term that few exceed",
			err:  write(n2, "a", func(o *v1alpha1.L2Owner) { o.Status.Term = math.MaxInt64 }),
			want: "status.term: is more than 1048576 above the term before",
		},
		{
			name: "n2 begins with such a term",
			err:  create(n2, "c", "n2", math.MaxInt64),
			want: "status.term: is more than 1048576 above the term before",
		},
		{
			name: "n2 keeps it from being deleted",
			err:  write(n2, "a", func(o *v1alpha1.L2Owner) { o.Finalizers = []string{"example.com/kept"} }),
			want: "metadata.finalizers: a speaker sets none on an L2Owner",
		},
		{
			name: "n1 deletes what is n2's by now",
			err:  disown(n1, "a"),
			want: notItself + "n2, the token n1",
		},
		{
			name: "n2 withdraws",
			err:  disown(n2, "a")},
		{
			name: "an operator may all of it",
			err:  own(admin, "b", "n1")},
	} {
		switch {
		case step.want == "" && step.err != nil:
			t.Errorf("%s: %v", step.name, step.err)
		case step.want != "" && (step.err == nil || !strings.Contains(step.err.Error(), step.want)):
			t.Errorf("%s: %v, want a refusal with %q", step.name, step.err, step.want)
		}
	}
}

// claims is one node's mirror at work, and what it heard.
type claims struct {
	*mirror.Mirror
	mu      sync.Mutex
	heard   []l2.Claim
	unready map[string]bool // Nodes
}

// Mirrored keeps what the mirror passes on.
func (c *claims) Mirrored(claim l2.Claim) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard = append(c.heard, claim)
}

// say has the mirror know whether a Node is ready.
func (c *claims) say(node string, ready bool) {
	c.mu.Lock()
	c.unready[node] = !ready
	c.mu.Unlock()
	c.Reconsider(node)
}

// startMirror runs the mirror of a node until the test ends.
func startMirror(t *testing.T, node string) *claims {
	t.Helper()
	c := &claims{unready: map[string]bool{}}
	var err error
	c.Mirror, err = mirror.New(mirror.Config{
		Berth: speakerOn(t, node), Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), Node: node,
		NodeUID: func(node string) (types.UID, bool) {
			found, err := scene.Kubernetes.CoreV1().Nodes().Get(context.Background(), node, metav1.GetOptions{})
			if err != nil {
				return "", false
			}
			return found.UID, true
		},
		Ready: func(node string) bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return !c.unready[node]
		},
		Claims: mirror.NewClaims(),
		To:     c,
	})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return c
}

// deleteOwnersAfter has all L2Owners deleted when the test, and the mirrors that it starts from now
// on, have ended.
func deleteOwnersAfter(t *testing.T) {
	t.Cleanup(func() {
		if _, err := scene.Kubectl(context.Background(), "", "delete", "l2owners.berth.dev", "--all"); err != nil {
			t.Error(err)
		}
	})
}

// awaitHeard waits until the last that a mirror heard of the address is this.
func (c *claims) awaitHeard(t *testing.T, want l2.Claim) {
	t.Helper()
	must(t, stage.Eventually(t.Context(), patience, func(context.Context) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		for i := len(c.heard) - 1; i >= 0; i-- {
			want.Cause = "" // for readers only
			if c.heard[i].Address == want.Address {
				if diff := cmp.Diff(want, c.heard[i], cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
					return errors.New("heard last: " + diff)
				}
				return nil
			}
		}
		return errors.New("heard nothing of " + want.Address.String())
	}))
}

// awaitOwner waits until there is this one L2Owner, or none with an empty Node, and returns it.
func awaitOwner(t *testing.T, want v1alpha1.L2OwnerStatus) *v1alpha1.L2Owner {
	t.Helper()
	var found *v1alpha1.L2Owner
	must(t, stage.Eventually(t.Context(), time.Minute, func(ctx context.Context) error {
		list, err := scene.Berth.L2Owners.List(ctx, metav1.ListOptions{})
		switch {
		case err != nil:
			return err
		case want.NodeName == "" && len(list.Items) == 0:
			return nil
		case len(list.Items) != 1 || want.NodeName == "":
			return fmt.Errorf("%d L2Owners: %+v", len(list.Items), list.Items)
		}
		found = &list.Items[0]
		if found.Status.ObservedGeneration != found.Generation {
			return fmt.Errorf("it is of generation %d, and says %d", found.Generation, found.Status.ObservedGeneration)
		}
		if diff := cmp.Diff(
			want, found.Status,
			cmpopts.IgnoreFields(v1alpha1.L2OwnerStatus{}, "AcquireTime", "ObservedGeneration", "Conditions"),
		); diff != "" {
			return errors.New(diff)
		}
		return nil
	}))
	return found
}

// Claims are mirrored in L2Owners.
func TestMirrorWritesL2Owners(t *testing.T) {
	makeNode(t, "n2")
	n1, n2 := startMirror(t, "n1"), startMirror(t, "n2")
	address := netip.MustParseAddr("192.0.2.1")
	claim := func(node string, term uint64) l2.Claim {
		return l2.Claim{
			Address:   address,
			Segment:   "172.30.0.0/24",
			Node:      node,
			Term:      term,
			Witnessed: true,
			Interface: "eth0",
			MAC:       []byte{2, 0, 0, 0, 0, 1},
			Cause:     l2.Joined,
		}
	}
	status := func(node string, term int64, services ...string) v1alpha1.L2OwnerStatus {
		s := v1alpha1.L2OwnerStatus{
			AnnouncementNames: []string{"l2"}, Address: "192.0.2.1",
			NodeName: node, Segment: "172.30.0.0/24", Interface: "eth0", MAC: "02:00:00:00:00:01", Term: term,
			Witnessed: true, Reason: "Joined",
		}
		for _, name := range services {
			s.ServiceRefs = append(s.ServiceRefs, v1alpha1.ServiceReference{Namespace: "d", Name: name})
		}
		return s
	}
	show := func(c *claims, services ...string) { c.Show(address, services, []string{"l2"}) }
	belongsTo := func(o *v1alpha1.L2Owner, name string) {
		t.Helper()
		node, err := scene.Kubernetes.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
		must(t, err)
		want := []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: name, UID: node.UID}}
		if diff := cmp.Diff(want, o.OwnerReferences); diff != "" {
			t.Errorf("it belongs to (-want +got):\n%s", diff)
		}
	}

	show(n1, "d/web")
	n1.Claimed(claim("n1", 1))
	first := awaitOwner(t, status("n1", 1, "web"))
	if belongsTo(first, "n1"); first.Status.AcquireTime == nil || first.Name != "192.0.2.1.172.30.0.0-24" {
		t.Errorf("%s since %v", first.Name, first.Status.AcquireTime)
	}
	n1.awaitHeard(t, claim("n1", 1))
	n2.awaitHeard(t, claim("n1", 1))

	// Another Service shares the address: it is the same object, with the same owner.
	show(n1, "d/also", "d/web")
	second := awaitOwner(t, status("n1", 1, "also", "web"))
	if second.UID != first.UID || !second.Status.AcquireTime.Equal(first.Status.AcquireTime) {
		t.Errorf("%s since %v by another Service, want the same since %v", second.UID, second.Status.AcquireTime,
			first.Status.AcquireTime)
	}
	n1.Claimed(claim("n1", 1)) // nothing new: nothing to write

	// Another node takes over; that the first withdraws late changes nothing.
	show(n2, "d/also", "d/web")
	n2.Claimed(claim("n2", 2))
	third := awaitOwner(t, status("n2", 2, "also", "web"))
	if belongsTo(third, "n2"); third.UID != first.UID {
		t.Errorf("%s is another object than %s", third.UID, first.UID)
	}
	n1.awaitHeard(t, claim("n2", 2))
	n1.say("n2", false) // of a Node that is not ready nothing is heard
	n1.awaitHeard(t, claim("", 2))
	n1.say("n2", true)
	n1.awaitHeard(t, claim("n2", 2))
	n1.Claimed(claim("", 1))
	// Somebody deletes it: the owner says again that it is.
	must(t, scene.Berth.L2Owners.Delete(t.Context(), third.Name, metav1.DeleteOptions{}))
	fourth := awaitOwner(t, status("n2", 2, "also", "web"))

	// A claim that does not hold against it is put right.
	fourth.TypeMeta, fourth.Status.NodeName, fourth.Status.Term = typeMeta("L2Owner"), "n1", 1
	_, err := scene.Berth.L2Owners.Update(t.Context(), fourth, metav1.UpdateOptions{})
	must(t, err)
	awaitOwner(t, status("n2", 2, "also", "web"))

	n2.Claimed(claim("", 2))
	awaitOwner(t, v1alpha1.L2OwnerStatus{})
	n1.awaitHeard(t, claim("", 0)) // what is gone has no term
}

// An L2Owner that is left from before a restart is claimed again or deleted.
func TestMirrorAfterRestart(t *testing.T) {
	of := func(address string) l2.Claim {
		return l2.Claim{
			Address: netip.MustParseAddr(address), Segment: "172.30.0.0/24", Node: "n1", Term: 1, Witnessed: true,
		}
	}
	const kept, lost = "192.0.2.1", "2001:db8::1"
	deleteOwnersAfter(t)
	before := startMirror(t, "n1")
	before.Claimed(of(kept))
	before.Claimed(of(lost))
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		list, err := scene.Berth.L2Owners.List(ctx, metav1.ListOptions{})
		if err == nil && len(list.Items) != 2 {
			err = fmt.Errorf("%d L2Owners, want 2", len(list.Items))
		}
		return err
	}))
	after := startMirror(t, "n1")
	after.Claimed(of(kept))
	after.Whole()
	awaitOwner(t, v1alpha1.L2OwnerStatus{
		Address: kept, Segment: "172.30.0.0/24", NodeName: "n1", Term: 1, Witnessed: true,
	})
}
