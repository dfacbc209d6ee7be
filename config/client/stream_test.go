package client

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

func threeNodes() *corev1.NodeList {
	list := &corev1.NodeList{
		TypeMeta: metav1.TypeMeta{
			APIVersion: "v1",
			Kind:       "NodeList",
		}, ListMeta: metav1.ListMeta{ResourceVersion: "42", Continue: "on"},
	}
	for i := range 3 {
		list.Items = append(list.Items, corev1.Node{ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf(
				"n%d",
				i,
			), ResourceVersion: fmt.Sprint(i), Labels: map[string]string{"rack": strings.Repeat("a", 100*i)},
		}})
	}
	return list
}

// encodings are how API servers send a list.
func encodings(t *testing.T, list *corev1.NodeList) map[string][]byte {
	t.Helper()
	inJSON, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	var inProtobuf bytes.Buffer
	if err := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme).Encode(list, &inProtobuf); err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{"JSON": inJSON, "Protobuf": inProtobuf.Bytes()}
}

func readNodes(encoded []byte) (list corev1.NodeList, err error) {
	list.ListMeta, err = readList(bytes.NewReader(encoded), func(decode func(any) error) error {
		node := &corev1.Node{}
		if err := decode(node); err != nil {
			return err
		}
		list.Items = append(list.Items, *node)
		return nil
	})
	return list, err
}

func TestReadList(t *testing.T) {
	for _, want := range []*corev1.NodeList{threeNodes(), {ListMeta: metav1.ListMeta{ResourceVersion: "1"}}} {
		for name, encoded := range encodings(t, want) {
			got, err := readNodes(encoded)
			want.TypeMeta = metav1.TypeMeta{}
			if diff := cmp.Diff(*want, got); err != nil || diff != "" {
				t.Errorf("%s: %v\n%s", name, err, diff)
			}
		}
	}
}

// A list that ends early, at whatever byte, is no list.
func TestReadList_cut(t *testing.T) {
	for name, encoded := range encodings(t, threeNodes()) {
		for end := range len(encoded) {
			list, err := readNodes(encoded[:end])
			if err == nil && name == "Protobuf" && len(list.Items) == 3 && list.ResourceVersion == "42" {
				continue // fields may follow the object in Protobuf, and need not
			}
			if err == nil {
				t.Fatalf("%s: no error for %d of %d bytes", name, end, len(encoded))
			}
		}
	}
}

func FuzzReadList(f *testing.F) {
	f.Add([]byte(`{"metadata":{"resourceVersion":"1"},"items":[{"metadata":{"name":"n1"}}]}`))
	f.Add([]byte("k8s\x00\x0a\x02\x0a\x00\x12\x06\x0a\x00\x12\x02\x0a\x00"))
	f.Fuzz(func(_ *testing.T, encoded []byte) {
		_, _ = readNodes(encoded) // it ends, without a panic
	})
}

// An informer's cache has what is kept of what was listed and watched. A list may be compressed,
// and no watch begins with all objects.
func TestCompact_Informer(t *testing.T) {
	list := threeNodes()
	list.Continue = ""
	encoded := encodings(t, list)["Protobuf"]
	asked := make(chan string, 64)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		asked <- fmt.Sprintf(
			"%s %s watch=%s initial=%s %s", r.URL.Path, query.Get("fieldSelector"), query.Get("watch"),
			query.Get("sendInitialEvents"), r.Header.Get("Accept-Encoding"),
		)
		if query.Get("watch") == "" {
			w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
			_, _ = w.Write(encoded)
			return
		}
		w.Header().Set("Content-Type", runtime.ContentTypeJSON)
		_, _ = fmt.Fprintln(
			w,
			`{"type":"ADDED","object":{"apiVersion":"v1","kind":"Node","metadata":{"name":"n9","resourceVersion":"43"}}}`,
		)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close) // after the informer, which the test's context ends
	set, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	informer, err := Compact[*corev1.Node]{
		Client: set.CoreV1().RESTClient(), Resource: "nodes", New: func() *corev1.Node { return &corev1.Node{} },
		Select: func(l *metav1.ListOptions) { l.FieldSelector = "metadata.name!=other" },
		Keep: func(n *corev1.Node) runtime.Object {
			return &metav1.PartialObjectMetadata{
				ObjectMeta: metav1.ObjectMeta{Name: n.Name, ResourceVersion: n.ResourceVersion},
			}
		},
	}.Informer(nil)
	if err != nil {
		t.Fatal(err)
	}
	added := make(chan string, 8)
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { added <- o.(*metav1.PartialObjectMetadata).Name },
	}); err != nil {
		t.Fatal(err)
	}
	go informer.RunWithContext(t.Context())
	names := map[string]bool{}
	for range 4 {
		names[<-added] = true
	}
	if diff := cmp.Diff(map[string]bool{"n0": true, "n1": true, "n2": true, "n9": true}, names); diff != "" {
		t.Error(diff)
	}
	for _, want := range []string{
		"/api/v1/nodes metadata.name!=other watch= initial= gzip", "/api/v1/nodes metadata.name!=other watch=true initial= gzip",
	} {
		if got := <-asked; got != want {
			t.Errorf("asked %q, want %q", got, want)
		}
	}
}
