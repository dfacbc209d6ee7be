package digest

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/berth-lb/berth/config/candidate"
)

const text = `
metadata:
  name: n1.example.com
  uid: 1a4f
  resourceVersion: "17"
  labels: {kubernetes.io/hostname: n1, topology.kubernetes.io/zone: a}
  annotations: {example.com/large: "0123456789"}
spec:
  podCIDRs: [10.1.0.0/24, "fd00:1::/64"]
  taints:
  - {key: node.kubernetes.io/out-of-service, effect: NoExecute}
  - {key: example.com/other, effect: NoSchedule}
status:
  addresses:
  - {type: InternalIP, address: 192.0.2.1}
  - {type: Hostname, address: n1}
  conditions:
  - {type: MemoryPressure, status: "False"}
  - {type: NetworkUnavailable, status: "False", reason: Routed}
  - {type: Ready, status: "True", lastHeartbeatTime: "2026-01-02T15:04:05Z"}
`

func fixture(t testing.TB) *corev1.Node {
	t.Helper()
	node := &corev1.Node{}
	if err := yaml.UnmarshalStrict([]byte(text), node); err != nil {
		t.Fatal(err)
	}
	return node
}

// What is read is what a speaker keeps of a Node that it watches.
func TestEncodeKeepsWhatCounts(t *testing.T) {
	node := fixture(t)
	deleted := fixture(t)
	deleted.DeletionTimestamp = &metav1.Time{Time: time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)}
	for _, n := range []*corev1.Node{node, deleted, {ObjectMeta: metav1.ObjectMeta{Name: "bare"}}} {
		encoded, err := Encode(n)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(n.Name, encoded)
		if err != nil {
			t.Fatal(err)
		}
		want := candidate.SlimNode(n)
		want.ResourceVersion = ""
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("Node %s (-want +got):\n%s", n.Name, diff)
		}
	}
}

// A heartbeat of the kubelet changes no digest.
func TestEncodeIgnoresHeartbeats(t *testing.T) {
	before, after := fixture(t), fixture(t)
	after.ResourceVersion = "18"
	after.Status.Conditions[2].LastHeartbeatTime = metav1.Now()
	after.Status.Images = []corev1.ContainerImage{{Names: []string{"example.com/image"}}}
	b, errB := Encode(before)
	a, errA := Encode(after)
	if errB != nil || errA != nil || a != b {
		t.Errorf("%s became %s (%v, %v)", b, a, errB, errA)
	}
	after.Status.Conditions[2].Status = corev1.ConditionUnknown
	if a, err := Encode(after); err != nil || a == b {
		t.Errorf("the digest of a Node that is not ready any more is the same: %s (%v)", a, err)
	}
}

func TestShareIsOneOfShares(t *testing.T) {
	known := map[string]int{}
	for _, name := range Shares() {
		known[name] = 0
	}
	for i := range 1000 {
		name := Share(string(rune('a'+i%26)) + time.Duration(i).String())
		if _, ok := known[name]; !ok {
			t.Fatalf("%s is not among Shares", name)
		}
		known[name]++
	}
	for name, nodes := range known {
		if nodes > 50 {
			t.Errorf("%s has %d of 1000 Nodes, in %d shares", name, nodes, len(known))
		}
	}
}

func TestHeartbeat(t *testing.T) {
	now := time.Now()
	h := NewHeartbeat(now, Shares()[:2])
	got, err := HeartbeatIn(h.Data())
	if diff := cmp.Diff(h, got); err != nil || diff != "" {
		t.Errorf("(-want +got): %v\n%s", err, diff)
	}
	if age, ok := got.Age(now.Add(time.Minute)); !ok || age != time.Minute {
		t.Errorf("age %v, %v", age, ok)
	}
	if age, ok := got.Age(now.Add(-time.Second)); ok {
		t.Errorf("a heartbeat of the future is %v old", age)
	}
	for _, data := range []map[string]string{
		nil, {keyRenewed: "x"}, {keyFormat: "3"}, {keyRenewed: "x", keyFormat: "one"},
	} {
		if got, err := HeartbeatIn(data); err == nil {
			t.Errorf("%v is taken for %+v", data, got)
		}
	}
}

// Whatever a digest has, it is read or refused, and what was read is written as it was.
func FuzzDecode(f *testing.F) {
	encoded, err := Encode(fixture(f))
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{encoded, `{}`, `null`, `{"labels":{"a":null}}`, `{"conditions":{"Ready":1}}`, `[`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		node, err := Decode("n1", text)
		if err != nil {
			return
		}
		again, err := Encode(node)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := Decode("n1", again); err != nil || !equal(t, node, second) {
			t.Errorf("%s was read as %v, and written as %s", text, node, again)
		}
	})
}

// equal compares as JSON: an empty list is none.
func equal(t *testing.T, a, b *corev1.Node) bool {
	t.Helper()
	textA, errA := json.Marshal(a)
	textB, errB := json.Marshal(b)
	return errA == nil && errB == nil && string(textA) == string(textB)
}
