package controller

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/condition"
)

// ensureHelloKey makes the key with which speakers sign their hellos, unless there is a good one,
// and advances a rotation of it by one step. The state of a rotation is only in the Secret and in
// the speakers' reports.
func (c *Controller) ensureHelloKey(ctx context.Context) error {
	secrets := c.Kubernetes.CoreV1().Secrets(c.Namespace)
	found, err := secrets.Get(ctx, v1alpha1.HelloSecret, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("get Secret %s/%s: %w", c.Namespace, v1alpha1.HelloSecret, err)
	}
	exists := err == nil
	if !exists {
		found = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
			Name: v1alpha1.HelloSecret, Namespace: c.Namespace, Labels: map[string]string{"app.kubernetes.io/part-of": "berth"},
		}}
	}
	desired := found.DeepCopy()
	step, err := rotate(desired, client.Stored[*v1alpha1.Speaker](c.informers.speaker), newKey)
	if err != nil {
		return err
	}
	signs, err := recordKey(desired, *c.recordKey.Load(), newKey)
	if err != nil {
		return err
	}
	switch {
	case !exists:
		_, err = secrets.Create(ctx, desired, metav1.CreateOptions{})
	case reflect.DeepEqual(found, desired):
		c.signWith(signs)
		return nil
	default:
		_, err = secrets.Update(ctx, desired, metav1.UpdateOptions{})
	}
	switch {
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause): // Berth is being uninstalled
	case err != nil:
		return fmt.Errorf("write Secret %s/%s: %w", c.Namespace, v1alpha1.HelloSecret, err)
	default:
		c.Logger.Info("hello key Secret written", "step", step)
	}
	c.signWith(signs)
	return nil
}

// recordKey returns the key that signs records. If the Secret has no good one, recordKey puts one
// in: the current key, so that deleting the Secret does not invalidate the records, or else a new
// one.
func recordKey(secret *corev1.Secret, now []byte, fresh func() ([]byte, error)) ([]byte, error) {
	if key := secret.Data[v1alpha1.RecordKey]; len(key) >= v1alpha1.ShortestHelloKey {
		return key, nil
	}
	key := now
	if len(key) == 0 {
		var err error
		if key, err = fresh(); err != nil {
			return nil, err
		}
	}
	secret.Data[v1alpha1.RecordKey] = key
	return key, nil
}

// signWith sets the key that signs records. If it changed, all Services are requeued, to sign their
// records again.
func (c *Controller) signWith(key []byte) {
	if before := c.recordKey.Swap(&key); len(*before) > 0 && !bytes.Equal(*before, key) {
		c.enqueueAll()
	}
}

// newKey returns 32 random bytes.
func newKey() ([]byte, error) {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("make a hello key: %w", err)
	}
	return key, nil
}

// rotate changes the Secret by one step, and says which:
//
//   - without a good key: one is made, or the next one is used;
//   - a rotation is requested: the next key is made;
//   - every speaker accepts the next key: it becomes the key, and the one before it is kept;
//   - every speaker signs with the key: the one before it is deleted.
//
// A step is taken only after every speaker reported the step before it, so that at each moment all
// speakers accept the keys that any of them signs with.
func rotate(secret *corev1.Secret, reports []*v1alpha1.Speaker, fresh func() ([]byte, error)) (step string, err error) {
	if secret.Data == nil {
		secret.Data = map[string][]byte{}
	}
	key, next := secret.Data[v1alpha1.HelloKey], secret.Data[v1alpha1.NextHelloKey]
	previous := secret.Data[v1alpha1.PreviousHelloKey]
	good := func(k []byte) bool { return len(k) >= v1alpha1.ShortestHelloKey }
	asked := secret.Annotations[v1alpha1.AnnotationRotate]
	var waiting []string
	defer func() { annotateWait(secret, waiting) }()
	switch {
	case !good(key) && good(next):
		secret.Data[v1alpha1.HelloKey] = next
		delete(secret.Data, v1alpha1.NextHelloKey)
		return "the next key was taken, since there was none that signs", nil
	case !good(key):
		secret.Data[v1alpha1.HelloKey], err = fresh()
		return "a key was made", err
	case next != nil && !good(next):
		secret.Data[v1alpha1.NextHelloKey], err = fresh()
		return "the next key was replaced, since it was too short", err
	case previous != nil: // one rotation ends before the next begins
		waiting = lagging(reports, func(r v1alpha1.SpeakerStatus) bool { return r.SigningKey == v1alpha1.Fingerprint(key) })
	case next != nil:
		waiting = lagging(reports, func(r v1alpha1.SpeakerStatus) bool {
			return slices.Contains(r.AcceptedKeys, v1alpha1.Fingerprint(next))
		})
		if len(waiting) == 0 {
			secret.Data[v1alpha1.HelloKey], secret.Data[v1alpha1.PreviousHelloKey] = next, key
			delete(secret.Data, v1alpha1.NextHelloKey)
			// The reports to come show which speakers sign with it.
			waiting = lagging(reports, func(r v1alpha1.SpeakerStatus) bool { return r.SigningKey == v1alpha1.Fingerprint(next) })
			return "every speaker accepts the next key: it signs", nil
		}
	case asked != secret.Annotations[v1alpha1.AnnotationRotated]:
		secret.Annotations[v1alpha1.AnnotationRotated] = asked
		secret.Data[v1alpha1.NextHelloKey], err = fresh()
		if err == nil {
			waiting = lagging(reports, func(v1alpha1.SpeakerStatus) bool { return false })
		}
		return "a rotation was asked for: the next key was made", err
	}
	if previous != nil && len(waiting) == 0 {
		delete(secret.Data, v1alpha1.PreviousHelloKey)
		return "every speaker signs with the key: the one before it is forgotten", nil
	}
	return "waits", nil
}

// lagging returns the nodes whose speakers do not report this yet, sorted. A speaker that has ended
// does not count: it reads the current keys when it starts. A speaker on a dead node counts until
// its Node is deleted, since it may still run.
func lagging(reports []*v1alpha1.Speaker, reported func(v1alpha1.SpeakerStatus) bool) []string {
	var names []string
	for _, s := range reports {
		if state, _ := s.Status.State(); !state.Ended() && !reported(s.Status) {
			names = append(names, s.Name)
		}
	}
	slices.Sort(names)
	return names
}

// annotateWait writes to the Secret which speakers a rotation waits for.
func annotateWait(secret *corev1.Secret, nodes []string) {
	if len(nodes) == 0 {
		delete(secret.Annotations, v1alpha1.AnnotationRotation)
		return
	}
	if secret.Annotations == nil {
		secret.Annotations = map[string]string{}
	}
	secret.Annotations[v1alpha1.AnnotationRotation] = "waits for the speaker of " + condition.Few(nodes)
}

func stateOf(s *v1alpha1.Speaker) v1alpha1.SpeakerState {
	state, _ := s.Status.State()
	return state
}

// rekeyed reports whether a speaker reports other keys, or its state changed.
func rekeyed(before, after metav1.Object) bool {
	b, okB := before.(*v1alpha1.Speaker)
	a, okA := after.(*v1alpha1.Speaker)
	return okA && okB && (stateOf(b) != stateOf(a) || b.Status.SigningKey != a.Status.SigningKey ||
		!slices.Equal(b.Status.AcceptedKeys, a.Status.AcceptedKeys))
}
