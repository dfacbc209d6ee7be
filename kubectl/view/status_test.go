package view

import (
	"slices"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/kubectl/cluster"
)

// The Lease of a controller that was killed stays.
func TestNoControllerIsTold(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	s := &cluster.State{
		Taken: now, Namespace: "berth-system",
		Leases: []*coordinationv1.Lease{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "berth-system", Name: "berth-controller"},
			Spec: coordinationv1.LeaseSpec{
				HolderIdentity: new("berth-controller-1"), RenewTime: new(metav1.NewMicroTime(now.Add(-time.Minute))),
			},
		}},
	}
	want := "there is no controller in namespace berth-system"
	if got := StatusOf(s).Problems; !slices.Contains(got, want) {
		t.Errorf("problems %q, want %q", got, want)
	}
}
