package pods

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/kubectl/cluster"
)

// Installed returns the image of the speakers, their ServiceAccount, which may have Secrets to pull
// it with, and such Secrets of their own; empty: there are none.
func Installed(s *cluster.State) (image, account string, pull []corev1.LocalObjectReference) {
	for _, d := range s.DaemonSets {
		if d.Namespace != s.Namespace || d.Labels[cluster.ComponentLabel] != "speaker" {
			continue
		}
		spec := d.Spec.Template.Spec
		for _, c := range spec.Containers {
			if slices.Contains(c.Args, "speaker") || slices.Contains(c.Command, "speaker") {
				return c.Image, spec.ServiceAccountName, spec.ImagePullSecrets
			}
		}
	}
	return "", "", nil
}
