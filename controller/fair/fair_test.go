package fair

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/util/workqueue"
)

var _ workqueue.Queue[string] = (*Queue[string])(nil)

func tenantOf(key string) string {
	namespace, _, _ := strings.Cut(key, "/")
	return namespace
}

// Tenants are served in turn.
func TestQueue(t *testing.T) {
	q := New(tenantOf, nil)
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

// Some go first, in turn, and do not keep the others waiting for ever.
func TestQueue_first(t *testing.T) { synctest.Test(t, testFirst) }

func testFirst(t *testing.T) {
	q := New(tenantOf, func(key string) bool { return strings.Contains(key, "/new") })
	for _, key := range []string{"a/1", "a/2", "b/1", "a/new1", "a/new2", "b/new1"} {
		q.Push(key)
	}
	if n := q.Waiting("a/9"); q.Len() != 6 || n != 4 {
		t.Errorf("%d wait, %d of them of tenant a, want 6 and 4", q.Len(), n)
	}
	got := []string{q.Pop(), q.Pop(), q.Pop(), q.Pop()}
	for i := range 9 {
		q.Push("c/new" + string(rune('0'+i)))
	}
	for range 11 {
		got = append(got, q.Pop())
		<-time.After(slice) // of the test's own clock
	}
	want := []string{
		"a/new1", "b/new1", "a/new2", "a/1",
		"c/new0", "c/new1", "c/new2", "c/new3", "c/new4", "c/new5", "c/new6", "c/new7", "b/1", "c/new8", "a/2",
	}
	if !slices.Equal(got, want) || q.Len() != 0 {
		t.Errorf("order %v, want %v, and %d are left", got, want, q.Len())
	}
}

// Those that do not go first have a slice of time at their turn, so that few writes of a slow API
// server do not keep very many of them waiting that take no time.
func TestQueue_slice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(tenantOf, func(key string) bool { return key == "a/new" })
		for range 10_000 {
			q.Push("b/old")
		}
		for range 3_000 {
			q.Push("a/new")
		}
		begun := time.Now()
		for q.others.length > 0 {
			if q.Pop() == "a/new" {
				<-time.After(2 * time.Second)
			} else {
				<-time.After(40 * time.Microsecond)
			}
		}
		if took := time.Since(begun); took > 25*time.Minute {
			t.Errorf("after %s the last of the others was served by one worker", took)
		}
	})
}
