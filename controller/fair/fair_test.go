package fair

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/client-go/util/workqueue"
)

var _ workqueue.Queue[string] = (*Queue[string])(nil)

// Tenants are served in turn.
func TestQueue(t *testing.T) {
	q := New(func(key string) string { namespace, _, _ := strings.Cut(key, "/"); return namespace })
	for _, key := range []string{"a/1", "a/2", "a/3", "b/1", "c/1", "c/2"} {
		q.Push(key)
	}
	if n := q.Waiting("a/9"); n != 3 {
		t.Errorf("%d of tenant a wait, want 3", n)
	}
	var got []string
	for q.Len() > 0 {
		got = append(got, q.Pop())
		if len(got) == 2 {
			q.Push("b/2")
		}
	}
	want := []string{"a/1", "b/1", "c/1", "a/2", "b/2", "c/2", "a/3"}
	if !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
}
