package cluster

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
)

// Berth is not installed only if the API server knows none of its kinds that the user may read.
func TestReadTellsWhichKindsThereAre(t *testing.T) {
	const (
		unknown   = `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}`
		forbidden = `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403}`
		broken    = `{"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "etcd is slow", "code": 500}`
		kinds     = "/apis/berth.dev/v1alpha1/"
	)
	for name, c := range map[string]struct {
		answers     map[string]string // by the start of the path; a list without items otherwise
		uninstalled bool
		lacks       string
	}{
		"all": {},
		"not one of them": {
			answers: map[string]string{kinds + "speakers": unknown},
			lacks:   "the API server does not know speakers.berth.dev",
		},
		"none": {answers: map[string]string{kinds: unknown}, uninstalled: true},
		"none of those that may be read": {
			answers:     map[string]string{kinds: unknown, kinds + "speakers": forbidden},
			uninstalled: true,
			lacks: "you have no right to list speakers.berth.dev; what depends on that is not known " +
				"(ClusterRole berth-view has these rights)",
		},
		"one is unknown, and the rest is not answered": {
			answers: map[string]string{kinds: broken, kinds + "speakers": unknown},
			lacks: "addressreservations.berth.dev could not be read: etcd is slow\n" +
				"bgpneighbors.berth.dev could not be read: etcd is slow\n" +
				"l2owners.berth.dev could not be read: etcd is slow\n" +
				"loadbalancerpools.berth.dev could not be read: etcd is slow\n" +
				"routeannouncements.berth.dev could not be read: etcd is slow\n" +
				"segmentannouncements.berth.dev could not be read: etcd is slow\n" +
				"the API server does not know speakers.berth.dev",
		},
		"none may be read": {
			answers: map[string]string{kinds: forbidden},
			lacks: "you have no right to list addressreservations.berth.dev, bgpneighbors.berth.dev, " +
				"l2owners.berth.dev, loadbalancerpools.berth.dev, routeannouncements.berth.dev, " +
				"segmentannouncements.berth.dev, speakers.berth.dev; what depends on that is not known " +
				"(ClusterRole berth-view has these rights)",
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				answer, longest := "{}", 0
				for path, text := range c.answers {
					if strings.HasPrefix(r.URL.Path, path) && len(path) > longest {
						answer, longest = text, len(path)
					}
				}
				w.Header().Set("Content-Type", "application/json")
				switch answer {
				case unknown:
					w.WriteHeader(http.StatusNotFound)
				case forbidden:
					w.WriteHeader(http.StatusForbidden)
				case broken:
					w.WriteHeader(http.StatusInternalServerError)
				}
				_, _ = io.WriteString(w, answer)
			}))
			defer server.Close()
			to, err := NewClients(&rest.Config{Host: server.URL})
			if err != nil {
				t.Fatal(err)
			}
			s, err := Read(t.Context(), to, "berth-system")
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(s.Lacks(), "\n"); s.Uninstalled != c.uninstalled || got != c.lacks {
				t.Errorf("uninstalled: %t, lacks %q; want %t, %q", s.Uninstalled, got, c.uninstalled, c.lacks)
			}
		})
	}
}
