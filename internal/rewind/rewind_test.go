package rewind

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// server answers lists with its revision, and watches with nothing.
type server struct {
	revision atomic.Int64
	status   atomic.Int64
	watches  atomic.Int64
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if status := s.status.Load(); status != 0 {
		w.WriteHeader(int(status))
		_ = json.NewEncoder(w).
			Encode(metav1.Status{Status: metav1.StatusFailure, Code: int32(status), Reason: metav1.StatusReasonForbidden})
		return
	}
	if r.URL.Query().Get("watch") == "true" {
		s.watches.Add(1)
		return
	}
	_, _ = fmt.Fprintf(
		w,
		`{"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":"%d"},"items":[]}`,
		s.revision.Load(),
	)
}

func TestTransport(t *testing.T) {
	for _, c := range []struct {
		name     string
		revision int64
		status   int64
		from     string
		found    int
		watches  int64
		want     func(error) bool // of the error; nil: there is none
	}{
		{
			name:     "from a revision that there is",
			revision: 100,
			from:     "100",
			watches:  1,
		},
		{
			name:     "from the future",
			revision: 99,
			from:     "100",
			found:    1,
			want:     apierrors.IsResourceExpired,
		},
		{
			name:     "from the beginning",
			revision: 99,
			watches:  1,
		},
		{
			name:     "from any revision",
			revision: 99,
			from:     "0",
			watches:  1,
		},
		{
			name:   "without the right to ask",
			status: http.StatusForbidden,
			from:   "100",
			want:   apierrors.IsForbidden,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &server{}
			s.revision.Store(c.revision)
			s.status.Store(c.status)
			at := httptest.NewServer(s)
			defer at.Close()
			found := 0
			config := &rest.Config{Host: at.URL}
			config.Wrap(func(next http.RoundTripper) http.RoundTripper { return Transport(next, func() { found++ }) })
			set, err := kubernetes.NewForConfig(config)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			w, err := set.CoreV1().Services("").Watch(ctx, metav1.ListOptions{ResourceVersion: c.from})
			if err == nil {
				w.Stop()
			}
			switch {
			case c.want == nil && err != nil, c.want != nil && !c.want(err):
				t.Errorf("error %v", err)
			case found != c.found || s.watches.Load() != c.watches:
				t.Errorf("found %d, watches %d, want %d and %d", found, s.watches.Load(), c.found, c.watches)
			}
			list, err := set.CoreV1().Services("").List(ctx, metav1.ListOptions{ResourceVersion: c.from, Limit: 500})
			if c.want == nil && (err != nil || list.ResourceVersion == "") || c.want != nil && !c.want(err) {
				t.Errorf("list %+v, error %v", list, err)
			}
		})
	}
}
