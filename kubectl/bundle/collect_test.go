package bundle

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/berth-lb/berth/kubectl/cluster"
)

// hidden is a secret that is put everywhere.
const hidden = "hunter2"

// api is an API server whose objects have secrets wherever somebody may have put one. It refuses
// what is not among its paths.
func api(t *testing.T) *cluster.Clients {
	t.Helper()
	const applied = `"managedFields":[{"manager":"hunter2"}],` +
		`"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{\"data\":{\"x\":\"hunter2\"}}",` +
		`"example.com/token":"hunter2","example.com/note":"the password: hunter2"}`
	const env = `"env":[{"name":"BGP_PASSWORD","value":"hunter2"},{"name":"NODE_NAME","value":"n1"}]`
	const container = `{"name":"speaker","args":["speaker","--router-password=hunter2"],` + env +
		`,"ports":[{"name":"http","containerPort":7470}]}`
	pod := `{"metadata":{"name":"berth-speaker-1","namespace":"berth-system","labels":{"app.kubernetes.io/name":"berth","app.kubernetes.io/component":"speaker"},` +
		applied + `},"spec":{"containers":[` + container + `]},` +
		`"status":{"containerStatuses":[{"name":"speaker","restartCount":1}]}}`
	list := func(kind string, items ...string) string {
		version, kind := path.Split(kind)
		return fmt.Sprintf(`{"kind":"%sList","apiVersion":%q,"items":[%s]}`,
			kind, strings.TrimSuffix(version, "/"), strings.Join(items, ","))
	}
	answers := map[string]string{
		"/version": `{"gitVersion":"v1.36.3"}`,
		"/api/v1/services": list("v1/Service",
			`{"metadata":{"name":"web","namespace":"shop",`+applied+`},"spec":{"type":"LoadBalancer"}}`),
		"/apis/berth.dev/v1alpha1/bgpneighbors": list(
			"berth.dev/v1alpha1/BGPNeighbor",
			`{"metadata":{"name":"tor",`+applied+`},"spec":{"authentication":{"tcpMD5":{"secretName":"tor-password"}}}}`,
		),
		"/api/v1/namespaces/berth-system/pods": list("v1/Pod", pod),
		"/api/v1/namespaces/shop/pods": list(
			"v1/Pod",
			`{"metadata":{"name":"web-1","namespace":"shop"},"spec":{"containers":[`+container+`]}}`,
		),
		"/api/v1/namespaces/berth-system/events": list(
			"v1/Event",
			`{"metadata":{"name":"x"},"message":"pulls by token=hunter2"}`,
		),
		"/apis/apps/v1/daemonsets": list(
			"apps/v1/DaemonSet",
			`{"metadata":{"name":"d","namespace":"other",`+applied+`},"spec":{"template":{"spec":{"containers":[`+container+`]}}}}`,
		),
		"/api/v1/namespaces/berth-system/pods/berth-speaker-1/log": `{"msg":"dial","password":"hunter2","url":"http://bob:hunter2@x/"}` +
			"\nBearer hunter2hunter2\ngot " + jwt + " back\n",
		"/api/v1/namespaces/berth-system/pods/http:berth-speaker-1:7470/proxy/metrics": `berth_up{password="hunter2"} 1`,
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "secrets") {
			t.Errorf("it asks for %s", r.URL.Path)
		}
		w.Header().Set("Content-Type", "application/json")
		answer, ok := answers[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusForbidden)
			answer = `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403,"message":"token hunter2x may not"}`
			answer = strings.ReplaceAll(answer, "hunter2x", jwt)
		}
		_, _ = w.Write([]byte(answer)) // the client reports what it does not get
	}))
	t.Cleanup(server.Close)
	to, err := cluster.NewClients(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

func TestCollect(t *testing.T) {
	b, err := Collect(t.Context(), api(t), "berth-system", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := b.Write(&archive, time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	got, err := Read(&archive)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range got.files {
		for _, secret := range []string{hidden, jwt, "c2lnbmF0dXJl"} {
			if bytes.Contains(content, []byte(secret)) {
				t.Errorf("%s has %s:\n%s", name, secret, content)
			}
		}
		if bytes.Contains(content, []byte("managedFields")) {
			t.Errorf("%s has managedFields", name)
		}
	}
	for _, name := range []string{
		"state.json", "extras.json", "plugin.json", "events.json", "pods/shop.json", "metrics/berth-speaker-1.txt",
		"logs/berth-speaker-1/speaker.log", "logs/berth-speaker-1/speaker.previous.log", "objects/bgpneighbors.berth.dev.json",
		"objects/daemonsets.apps.json", "errors.txt",
	} {
		if !slices.Contains(got.Names(), name) {
			t.Errorf("it has no %s, only %q", name, got.Names())
		}
	}
	if text := string(got.files["errors.txt"]); !strings.Contains(text, "nodes: token REDACTED may not") {
		t.Errorf("errors.txt says %s", text)
	}
	if text := string(got.files["logs/berth-speaker-1/speaker.log"]); !strings.Contains(text, "got REDACTED back") {
		t.Errorf("the log is %s", text)
	}
	if text := string(got.files["objects/pods.json"]); !strings.Contains(text, `"n1"`) {
		t.Errorf("of Berth's own Pods, variables that are no secret should stay: %s", text)
	}
	s, err := got.State()
	if err != nil {
		t.Fatal(err)
	}
	if s.Service("shop", "web") == nil || s.BGPNeighbors[0].Spec.Authentication.TCPMD5.SecretName != "tor-password" ||
		s.Missing[cluster.Nodes] == nil {
		t.Errorf("the State is %+v", s)
	}
	if _, err := got.Extras(); err != nil {
		t.Error(err)
	}
	if pods := got.Pods("shop"); pods.Err != nil || len(pods.All) != 1 ||
		len(pods.All[0].Spec.Containers[0].Env) != 0 {
		t.Errorf("Pods of shop: %+v", pods)
	}
	if pods := got.Pods("elsewhere"); pods.Err == nil {
		t.Error("Pods of another namespace are known")
	}
}

// Of a long log the end is kept, from the start of a line.
func TestEnd(t *testing.T) {
	e := end{most: 100}
	for i := range 1000 {
		fmt.Fprintf(&e, "line %d\n", i)
	}
	lines := strings.Split(strings.TrimSpace(string(e.lines())), "\n")
	if lines[0] != "(only the last 100 bytes)" || lines[1] != "line 989" || lines[len(lines)-1] != "line 999" {
		t.Errorf("kept %q", lines)
	}
	if len(e.text) > 2*e.most {
		t.Errorf("it holds %d bytes", len(e.text))
	}
}

// What is no archive is refused in words.
func TestReadOther(t *testing.T) {
	if _, err := Read(strings.NewReader("kind: List")); err == nil ||
		!strings.Contains(err.Error(), "is not an archive") {
		t.Errorf("another file: %v", err)
	}
	b := New("")
	b.Add("x.json", []byte("{"))
	if len(b.Names()) != 0 || len(b.Errors()) != 1 {
		t.Errorf("%q, %q", b.Names(), b.Errors())
	}
	var out bytes.Buffer
	if err := b.Write(&out, time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(bytes.NewReader(out.Bytes()[:out.Len()/2])); err == nil {
		t.Error("half an archive was read")
	}
}
