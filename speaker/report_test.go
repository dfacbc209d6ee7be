package speaker

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"

	"github.com/google/go-cmp/cmp"
)

func TestANodeThatCannotForwardSaysSoOnce(t *testing.T) {
	node := cache.NewSharedIndexInformer(nil, &corev1.Node{}, 0, nil)
	if err := node.GetStore().Add(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}); err != nil {
		t.Fatal(err)
	}
	recorder := events.NewFakeRecorder(8)
	r := &reporter{Options: Options{Node: "n1", Events: recorder}, sources: &sources{node: node}}
	for _, lacking := range []string{"", "no scheduler mh", "no scheduler mh", "100% of nothing", "", ""} {
		r.ability(lacking)
	}
	close(recorder.Events)
	var got []string
	for e := range recorder.Events {
		got = append(got, e)
	}
	want := []string{
		"Warning IPVSLacking no scheduler mh",
		"Warning IPVSLacking 100% of nothing",
		"Normal IPVSReady can forward by IPVS with all schedulers",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
}
