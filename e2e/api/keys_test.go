//go:build root

package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/stage"
)

// helloSecret returns the Secret of the hello keys.
func helloSecret(t *testing.T) *corev1.Secret {
	t.Helper()
	s, err := scene.Kubernetes.CoreV1().Secrets(
		stage.Namespace,
	).Get(t.Context(), v1alpha1.HelloSecret, metav1.GetOptions{})
	must(t, err)
	return s
}

// reportKeys writes what a speaker would report: with which key it signs, and which
// it accepts.
func reportKeys(t *testing.T, node string, sign []byte, accept ...[]byte) {
	t.Helper()
	var accepted []string
	for _, k := range append(accept, sign) {
		accepted = append(accepted, v1alpha1.Fingerprint(k))
	}
	report(
		t,
		node,
		fmt.Sprintf(
			`state: Announcing, signingKey: %q, acceptedKeys: ["%s"]`, v1alpha1.Fingerprint(sign),
			strings.Join(accepted, `","`),
		),
	)
}

// awaitKeys waits until the Secret has exactly these keys beside the one that signs
// records, and its rotation waits for this, and returns it.
func awaitKeys(t *testing.T, waits string, names ...string) *corev1.Secret {
	t.Helper()
	names = append(names, v1alpha1.RecordKey)
	slices.Sort(names)
	var s *corev1.Secret
	must(t, stage.Eventually(t.Context(), patience, func(context.Context) error {
		s = helloSecret(t)
		if got := slices.Sorted(maps.Keys(s.Data)); !slices.Equal(got, names) ||
			s.Annotations[v1alpha1.AnnotationRotation] != waits {
			return fmt.Errorf("the Secret has %v and %v, want %v and %q", got, s.Annotations, names, waits)
		}
		return nil
	}))
	return s
}

// The hello key is rotated when every speaker is ready for it.
func TestHelloKeyRotation(t *testing.T) {
	namespace(t)
	first := start(t)
	t.Cleanup(func() { _, _ = scene.Kubectl(context.Background(), "", "delete", "speakers", "--all") })
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		s, err := scene.Kubernetes.CoreV1().Secrets(stage.Namespace).Get(ctx, v1alpha1.HelloSecret, metav1.GetOptions{})
		if err == nil && len(s.Data[v1alpha1.HelloKey]) != 32 {
			err = errors.New("no key yet")
		}
		return err
	}))
	old := helloSecret(t).Data["key"]
	reportKeys(t, "n1", old)
	reportKeys(t, "n2", old)
	_, err := scene.Kubectl(
		t.Context(), "", "-n", stage.Namespace, "annotate", "--overwrite", "secret", v1alpha1.HelloSecret,
		"berth.dev/rotate="+t.Name(),
	)
	must(t, err)
	s := awaitKeys(t, "waits for the speaker of n1, n2", "key", "next")
	fresh := s.Data["next"]
	if string(s.Data["key"]) != string(old) || len(fresh) != 32 || string(fresh) == string(old) {
		t.Fatalf("the key changed, or the next one is no new one")
	}
	reportKeys(t, "n1", old, fresh)
	awaitKeys(t, "waits for the speaker of n2", "key", "next")

	// Another controller goes on with it.
	first.stop()
	reportKeys(t, "n2", old, fresh)
	start(t)
	s = awaitKeys(t, "waits for the speaker of n1, n2", "key", "previous")
	if string(s.Data["key"]) != string(fresh) || string(s.Data["previous"]) != string(old) {
		t.Fatal("the next key does not sign, or the one before it was not kept")
	}
	reportKeys(t, "n1", fresh, old)
	awaitKeys(t, "waits for the speaker of n2", "key", "previous")
	// A speaker that will not come back is not waited for, once its report is gone.
	must(t, scene.Berth.Speakers.Delete(t.Context(), "n2", metav1.DeleteOptions{}))
	s = awaitKeys(t, "", "key")
	if string(s.Data["key"]) != string(fresh) {
		t.Error("the key changed once more")
	}

	// A next key that an operator brings.
	_, err = scene.Kubernetes.CoreV1().Secrets(
		stage.Namespace,
	).Patch(
		t.Context(), v1alpha1.HelloSecret, "application/merge-patch+json",
		[]byte(`{"stringData":{"next":"0123456789abcdef0123456789abcdef"}}`), metav1.PatchOptions{},
	)
	must(t, err)
	brought := []byte("0123456789abcdef0123456789abcdef")
	awaitKeys(t, "waits for the speaker of n1", "key", "next")
	reportKeys(t, "n1", fresh, brought)
	awaitKeys(t, "waits for the speaker of n1", "key", "previous")
	reportKeys(t, "n1", brought, fresh)
	s = awaitKeys(t, "", "key")
	if string(s.Data["key"]) != string(brought) {
		t.Error("the key is not the one that was brought")
	}
}
