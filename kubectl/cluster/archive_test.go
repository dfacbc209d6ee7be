package cluster

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/berth-lb/berth/config/v1alpha1"
)

// A saved State is the same State.
func TestArchive(t *testing.T) {
	taken := time.Date(2026, 11, 29, 4, 0, 0, 5, time.UTC)
	s := &State{
		Taken: taken, Namespace: "berth-system", ServerVersion: "v1.36.3", Uninstalled: true,
		Missing: map[Resource]error{},
	}
	// One object of each kind, by what a State has.
	v := reflect.ValueOf(s).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Slice {
			item := reflect.New(f.Type().Elem().Elem())
			o, ok := item.Interface().(metav1.Object)
			if !ok {
				t.Fatalf("%s has no objects", v.Type().Field(i).Name)
			}
			o.SetName(strings.ToLower(v.Type().Field(i).Name))
			o.SetCreationTimestamp(metav1.NewTime(taken.Truncate(time.Second).Local()))
			f.Set(reflect.Append(f, item))
		}
	}
	s.Services[0].Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}
	s.Pools[0].Spec.Addresses = []v1alpha1.AddressRange{"192.0.2.0/24"}
	renewed := metav1.NewMicroTime(taken.Truncate(time.Microsecond).Local())
	s.Leases[0].Spec = coordinationv1.LeaseSpec{RenewTime: &renewed}
	s.Events = nil // cannot be read
	s.DaemonSets = nil
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "events"}, "", errors.New("no"))
	s.Missing[Events] = forbidden
	s.Missing[DaemonSets] = errors.New("timeout")

	files, err := s.Save()
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(s.kinds())-1 { // without the two kinds, and with the rest
		t.Errorf("it has %d files", len(files))
	}
	got, err := Load(files)
	if err != nil {
		t.Fatal(err)
	}
	if !apierrors.IsForbidden(got.Missing[Events]) || got.Missing[Events].Error() != forbidden.Error() ||
		got.Missing[DaemonSets].Error() != "timeout" {
		t.Errorf("what is missing became %v", got.Missing)
	}
	if strings.Join(got.Lacks(), "\n") != strings.Join(s.Lacks(), "\n") {
		t.Errorf("it says %q, not %q", got.Lacks(), s.Lacks())
	}
	got.Missing = s.Missing
	if !reflect.DeepEqual(got, s) {
		t.Errorf("it became\n%+v\nfrom\n%+v", got, s)
	}
}

// An archive that was cut or made by hand is said to be so.
func TestLoadIncomplete(t *testing.T) {
	if _, err := Load(nil); !errors.Is(err, ErrNoState) {
		t.Errorf("no file at all: %v", err)
	}
	s, err := Load(map[string][]byte{"state.json": []byte("{}")})
	if err != nil || len(s.Missing) != len(s.kinds()) {
		t.Errorf("no objects: %v, missing %v", err, s.Missing)
	}
	for _, text := range []string{"{", `{"items": [null]}`, `{"items": 1}`} {
		files := map[string][]byte{"state.json": []byte("{}"), "objects/nodes.json": []byte(text)}
		if _, err := Load(files); err == nil {
			t.Errorf("%s was taken for Nodes", text)
		}
	}
}
