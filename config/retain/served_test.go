package retain

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Who asks about many objects of all kinds asks the API server once.
func TestAsk(t *testing.T) {
	const list = `{"kind":"APIResourceList","resources":[{"name":"loadbalancerpools","verbs":["create","get"]},
		{"name":"loadbalancerpools/status","verbs":["get"]},{"name":"bgpneighbors","verbs":["get"]}]}`
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(list))
	}))
	defer server.Close()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	served := Ask(t.Context(), client.Discovery().RESTClient())
	for range 1000 {
		for resource, want := range map[string]bool{
			"loadbalancerpools": true, "bgpneighbors": false, "routeannouncements": false,
		} {
			if is, err := served(resource); is != want || err != nil {
				t.Fatalf("%s are served: %t (%v), want %t", resource, is, err, want)
			}
		}
	}
	if n := asked.Load(); n > 100 {
		t.Errorf("3000 questions made %d requests", n)
	}
}
