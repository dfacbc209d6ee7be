package controller

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/config/v1alpha1/v1alpha1test"
)

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }

// material returns a key of 32 bytes.
func material(letter string) []byte { return bytes.Repeat([]byte(letter), 32) }

// speaks returns a report that signs with the first of the keys and accepts all of them.
func speaks(node string, state v1alpha1.SpeakerState, letters ...string) *v1alpha1.Speaker {
	s := &v1alpha1.Speaker{
		ObjectMeta: named(node),
		Status:     v1alpha1.SpeakerStatus{Conditions: v1alpha1test.InState(state)},
	}
	for i, l := range letters {
		print := v1alpha1.Fingerprint(material(l))
		if i == 0 {
			s.Status.SigningKey = print
		}
		s.Status.AcceptedKeys = append(s.Status.AcceptedKeys, print)
	}
	return s
}

// shown returns a Secret as letters, key=a next=b, and what it waits for.
func shown(s *corev1.Secret) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(s.Data)) {
		parts = append(parts, name+"="+strings.TrimRight(string(s.Data[name][:1]), "\x00"))
	}
	if w := s.Annotations[v1alpha1.AnnotationRotation]; w != "" {
		parts = append(parts, "("+w+")")
	}
	return strings.Join(parts, " ")
}

// A key is replaced step by step.
func TestRotate(t *testing.T) {
	const ready, leaving = v1alpha1.SpeakerAnnouncing, v1alpha1.SpeakerLeaving
	done := map[string]string{"berth.dev/rotate": "1", "berth.dev/rotated": "1"}
	for _, c := range []struct {
		name        string
		data        string
		annotations map[string]string
		reports     []*v1alpha1.Speaker
		want        string
	}{
		{
			name: "no key",
			want: "key=n",
		},
		{
			name: "a damaged key",
			data: "key=!",
			want: "key=n",
		},
		{
			name: "a damaged key, and a next",
			data: "key=! next=b",
			want: "key=b",
		},
		{
			name:    "a good key",
			data:    "key=a",
			reports: []*v1alpha1.Speaker{speaks("n1", ready, "z")},
			want:    "key=a",
		},
		{
			name:        "asked to rotate",
			data:        "key=a",
			annotations: map[string]string{"berth.dev/rotate": "1"},
			reports:     []*v1alpha1.Speaker{speaks("n1", ready, "a")},
			want:        "key=a next=n (waits for the speaker of n1)",
		},
		{
			name:        "asked again with another value",
			data:        "key=a",
			annotations: map[string]string{"berth.dev/rotate": "2", "berth.dev/rotated": "1"},
			want:        "key=a next=n",
		},
		{
			name:        "not asked again",
			data:        "key=a",
			annotations: done,
			want:        "key=a",
		},
		{
			name:        "one does not accept the next key",
			data:        "key=a next=b",
			annotations: done,
			reports: []*v1alpha1.Speaker{
				speaks("n1", ready, "a", "b"), speaks("n2", v1alpha1.SpeakerStarting, "a"), speaks("n3", leaving, "a"),
			},
			want: "key=a next=b (waits for the speaker of n2, n3)",
		},
		{
			name:        "of many the first are named",
			data:        "key=a next=b",
			annotations: done,
			reports: []*v1alpha1.Speaker{
				speaks("n1", ready), speaks("n2", ready), speaks("n3", ready), speaks("n4", ready), speaks("n5", ready),
				speaks("n6", ready), speaks("n7", ready),
			},
			want: "key=a next=b (waits for the speaker of n1, n2, n3, n4, n5 and 2 more)",
		},
		{
			name:        "all accept the next key; one has ended",
			data:        "key=a next=b",
			annotations: done,
			reports: []*v1alpha1.Speaker{
				speaks("n1", ready, "a", "b"), speaks("n2", leaving, "a", "b"), speaks("n3", v1alpha1.SpeakerStopped, "a"),
			},
			want: "key=b previous=a (waits for the speaker of n1, n2)",
		},
		{
			name:        "one signs with the previous key",
			data:        "key=b previous=a",
			annotations: done,
			reports:     []*v1alpha1.Speaker{speaks("n1", ready, "b", "a"), speaks("n2", v1alpha1.SpeakerRestarting, "a", "b")},
			want:        "key=b previous=a (waits for the speaker of n2)",
		},
		{
			name:        "all sign with the key",
			data:        "key=b previous=a",
			annotations: done,
			reports:     []*v1alpha1.Speaker{speaks("n1", ready, "b", "a"), speaks("n2", ready, "b", "a")},
			want:        "key=b",
		},
		{
			name:        "asked in the midst: one rotation ends first",
			data:        "key=b previous=a",
			annotations: map[string]string{"berth.dev/rotate": "2", "berth.dev/rotated": "1"},
			reports:     []*v1alpha1.Speaker{speaks("n1", ready, "a", "b")},
			want:        "key=b previous=a (waits for the speaker of n1)",
		},
		{
			name:        "a next key set by hand in the midst waits too",
			data:        "key=b next=c previous=a",
			annotations: done,
			reports:     []*v1alpha1.Speaker{speaks("n1", ready, "a", "b", "c")},
			want:        "key=b next=c previous=a (waits for the speaker of n1)",
		},
		{
			name:        "a next key that is too short",
			data:        "key=a next=!",
			annotations: done,
			want:        "key=a next=n",
		},
	} {
		secret := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Annotations: maps.Clone(c.annotations)},
			Data:       map[string][]byte{},
		}
		for _, field := range strings.Fields(c.data) {
			name, letter, _ := strings.Cut(field, "=")
			if secret.Data[name] = material(letter); letter == "!" {
				secret.Data[name] = []byte("!")
			}
		}
		if _, err := rotate(secret, c.reports, func() ([]byte, error) { return material("n"), nil }); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if got := shown(secret); got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

// At each step of a rotation every speaker understands every other one. Speakers read the Secret in
// any order, one at a time, and report it some time later.
func TestRotateWhileSpeakersLag(t *testing.T) {
	for seed := range uint64(200) {
		secret := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"berth.dev/rotate": "1"}},
			Data:       map[string][]byte{"key": material("a")},
		}
		takes := func() []string {
			letters := []string{string(secret.Data["key"][:1])}
			for _, name := range []string{"next", "previous"} {
				if k := secret.Data[name]; k != nil {
					letters = append(letters, string(k[:1]))
				}
			}
			return letters
		}
		knows := map[string][]string{"n1": {"a"}, "n2": {"a"}, "n3": {"a"}}
		reports := map[string]*v1alpha1.Speaker{}
		for node := range knows {
			reports[node] = speaks(node, v1alpha1.SpeakerAnnouncing, "a")
		}
		random := seed
		for steps := 0; shown(secret) != "key=n"; steps++ {
			if steps > 5000 {
				t.Fatalf("seed %d: the rotation does not end: %s", seed, shown(secret))
			}
			random = random*6364136223846793005 + 1442695040888963407
			node := fmt.Sprintf("n%d", random>>33%3+1)
			switch random >> 40 % 3 {
			case 0:
				knows[node] = takes()
			case 1:
				reports[node] = speaks(node, v1alpha1.SpeakerAnnouncing, knows[node]...)
			case 2:
				if _, err := rotate(
					secret, slices.Collect(maps.Values(reports)), func() ([]byte, error) { return material("n"), nil },
				); err != nil {
					t.Fatal(err)
				}
			}
			for a, signs := range knows {
				for b, accepts := range knows {
					if !slices.Contains(accepts, signs[0]) {
						t.Fatalf("seed %d: %s accepts %v, and %s signs with %s", seed, b, accepts, a, signs[0])
					}
				}
			}
		}
	}
}
