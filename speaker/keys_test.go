package speaker

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/l2"
)

func TestKeysOf(t *testing.T) {
	a, b, c := bytes.Repeat([]byte("a"), 32), bytes.Repeat([]byte("b"), 32), bytes.Repeat([]byte("c"), 32)
	const printA, printB, printC = "3ba3f5f4", "bdb33976", "cd93782b"
	for _, x := range []struct {
		name     string
		data     map[string][]byte
		want     l2.Keys
		signing  string
		accepted string
	}{
		{
			name:     "one key",
			data:     map[string][]byte{"key": a},
			want:     l2.Keys{Sign: a},
			signing:  printA,
			accepted: printA,
		},
		{
			name:     "a rotation begins",
			data:     map[string][]byte{"key": a, "next": b},
			want:     l2.Keys{Sign: a, Accept: [][]byte{b}},
			signing:  printA,
			accepted: "A B",
		},
		{
			name:     "a rotation ends",
			data:     map[string][]byte{"key": b, "previous": a},
			want:     l2.Keys{Sign: b, Accept: [][]byte{a}},
			signing:  printB,
			accepted: "A B",
		},
		{
			name:     "one follows another",
			data:     map[string][]byte{"key": b, "previous": a, "next": c},
			want:     l2.Keys{Sign: b, Accept: [][]byte{c, a}},
			signing:  printB,
			accepted: "A B C",
		},
		{
			name:     "the next is the same",
			data:     map[string][]byte{"key": a, "next": a},
			want:     l2.Keys{Sign: a, Accept: [][]byte{a}},
			signing:  printA,
			accepted: printA,
		},
		{
			name:     "the next is too short",
			data:     map[string][]byte{"key": a, "next": []byte("short")},
			want:     l2.Keys{Sign: a},
			signing:  printA,
			accepted: printA,
		},
		{
			name: "none that signs",
			data: map[string][]byte{"next": a},
			want: l2.Keys{Accept: [][]byte{a}},
		},
		{
			name: "nothing",
			want: l2.Keys{},
		},
	} {
		got, good := keysOf(&corev1.Secret{Data: x.data})
		if diff := cmp.Diff(x.want, got); diff != "" || good != (len(x.want.Sign) > 0) {
			t.Errorf("%s: good %v, keys %s", x.name, good, diff)
		}
		signing, accepted := fingerprints(got)
		want := strings.NewReplacer("A", printA, "B", printB, "C", printC).Replace(x.accepted)
		if signing != x.signing || !sameSet(accepted, strings.Fields(want)) {
			t.Errorf("%s: signs with %s and accepts %v, want %s and %s", x.name, signing, accepted, x.signing, want)
		}
	}
}

func sameSet(a, b []string) bool {
	in := func(s []string) map[string]bool { return set(s...) }
	return len(a) == len(b) && cmp.Equal(in(a), in(b))
}
