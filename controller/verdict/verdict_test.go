package verdict

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
)

// A verdict is written to three conditions.
func TestVerdictApply(t *testing.T) {
	wrong := []config.Problem{
		{Reason: "InvalidAddresses", Message: "one is wrong"},
		{Reason: "Conflict", Message: "no harm", Harmless: true},
		{Reason: "UnknownPool", Message: "another too"},
	}
	is := func(kind, status, reason, message string) metav1.Condition {
		return metav1.Condition{
			Type:               kind,
			Status:             metav1.ConditionStatus(status),
			Reason:             reason,
			Message:            message,
			ObservedGeneration: 7,
		}
	}
	const both = "one is wrong; another too"
	for _, c := range []struct {
		name     string
		accepted bool
		problems []config.Problem
		want     []metav1.Condition
	}{
		{
			name:     "all is well",
			accepted: true,
			want: []metav1.Condition{
				is("Accepted", "True", "Accepted", "all of the object is in effect"),
				is("Ready", "True", "Accepted", "all of the object is in effect"),
			},
		},
		{
			name:     "what is wrong does no harm",
			accepted: true,
			problems: wrong[1:2],
			want: []metav1.Condition{
				is("Accepted", "True", "Accepted", "all of the object is in effect"),
				is("Ready", "True", "Accepted", "all of the object is in effect"),
			},
		},
		{
			name:     "a part is not in effect",
			accepted: true,
			problems: wrong,
			want: []metav1.Condition{
				is("Accepted", "True", "Accepted", "in effect, but for what condition PartiallyInvalid says"),
				is("PartiallyInvalid", "True", "InvalidAddresses", both),
				is("Ready", "False", "InvalidAddresses", both),
			},
		},
		{
			name:     "nothing is in effect",
			problems: wrong,
			want: []metav1.Condition{
				is("Accepted", "False", "InvalidAddresses", both),
				is("Ready", "False", "InvalidAddresses", both),
			},
		},
	} {
		o := &v1alpha1.LoadBalancerPool{ObjectMeta: metav1.ObjectMeta{Generation: 7}}
		o.Status.Conditions = []metav1.Condition{
			{Type: "Accepted", Status: "Unknown", Reason: "Pending"},
			{Type: "Ready", Status: "Unknown", Reason: "Pending"},
		}
		v := Of(c.accepted, c.problems)
		if changed, news := v.Apply(o); !changed || !news {
			t.Errorf("%s: changed %t, news %t", c.name, changed, news)
		}
		byType := cmpopts.SortSlices(func(a, b metav1.Condition) bool { return a.Type < b.Type })
		noTime := cmpopts.IgnoreFields(metav1.Condition{}, "LastTransitionTime")
		if diff := cmp.Diff(c.want, o.Status.Conditions, byType, noTime); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", c.name, diff)
		}
		if o.Status.ObservedGeneration != 7 {
			t.Errorf("%s: observed generation %d", c.name, o.Status.ObservedGeneration)
		}
		if changed, news := v.Apply(o); changed || news {
			t.Errorf("%s, again: changed %t, news %t", c.name, changed, news)
		}
		if Of(true, nil).Apply(o); len(o.Status.Conditions) != 2 {
			t.Errorf("%s, and fixed: %v", c.name, o.Status.Conditions)
		}
	}
}
