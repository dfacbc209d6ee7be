package speaker

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPlaces(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"rack": "a"}}}
	affinity := func(operator corev1.NodeSelectorOperator, values ...string) corev1.PodSpec {
		term := corev1.NodeSelectorTerm{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "rack", Operator: operator, Values: values}},
		}
		return corev1.PodSpec{Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{term},
			},
		}}}
	}
	for _, c := range []struct {
		name string
		spec corev1.PodSpec
		want bool
	}{
		{
			name: "all",
			spec: corev1.PodSpec{},
			want: true,
		},
		{
			name: "by a label",
			spec: corev1.PodSpec{NodeSelector: map[string]string{"rack": "a"}},
			want: true,
		},
		{
			name: "others",
			spec: corev1.PodSpec{NodeSelector: map[string]string{"rack": "b"}},
		},
		{
			name: "by affinity",
			spec: affinity(corev1.NodeSelectorOpIn, "a", "b"),
			want: true,
		},
		{
			name: "others by affinity",
			spec: affinity(corev1.NodeSelectorOpNotIn, "a"),
		},
		{
			name: "what cannot be understood",
			spec: affinity("Sometimes", "a"),
			want: true,
		},
	} {
		set := &appsv1.DaemonSet{Spec: appsv1.DaemonSetSpec{Template: corev1.PodTemplateSpec{Spec: c.spec}}}
		if got := places(set, node); got != c.want {
			t.Errorf("%s: selected %v, want %v", c.name, got, c.want)
		}
	}
}
