package pods

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/internal/probe"
	"github.com/berth-lb/berth/kubectl/doctor/nodes"
)

const (
	// Name is the value of label app.kubernetes.io/name of the pods.
	Name      = "berth-probe"
	nameLabel = "app.kubernetes.io/name"
	// runLabel tells the pods of one run from another's.
	runLabel  = "berth.dev/probe"
	container = "probe"
	// grace is how long the program has to end, in seconds: it ends at once.
	grace = 1
)

// pod returns the pod of a probe. It may do no more than send and receive frames in the network of
// its node.
func (x *run) pod(request probe.Request) (*corev1.Pod, error) {
	argument, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	no, yes := false, true
	root, seconds, mode := int64(0), int64((x.Timeout + x.plan.Takes + outlive).Seconds()), int32(0o400)
	period := int64(grace)
	spec := corev1.PodSpec{
		NodeName:                      request.Node,
		HostNetwork:                   true,
		DNSPolicy:                     corev1.DNSDefault,
		RestartPolicy:                 corev1.RestartPolicyNever,
		ActiveDeadlineSeconds:         &seconds,
		TerminationGracePeriodSeconds: &period,
		ServiceAccountName:            x.Account,
		AutomountServiceAccountToken:  &no,
		EnableServiceLinks:            &no,
		ImagePullSecrets:              x.PullSecrets,
		Tolerations:                   []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		SecurityContext: &corev1.PodSecurityContext{
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		Containers: []corev1.Container{{
			Name: container, Image: x.Image, ImagePullPolicy: corev1.PullIfNotPresent,
			Command: []string{"/berth"}, Args: []string{"probe", string(argument)},
			Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("32Mi")},
				Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("256Mi")},
			},
			SecurityContext: &corev1.SecurityContext{
				RunAsUser: &root, AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
				Capabilities: &corev1.Capabilities{
					Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_RAW"},
				},
			},
		}},
	}
	for i, name := range nodes.Secrets(request) {
		volume := fmt.Sprintf("password-%d", i) // the Secret's name may be too long for one
		spec.Volumes = append(spec.Volumes, corev1.Volume{
			Name: volume, VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{
				SecretName: name, Optional: &yes, DefaultMode: &mode,
				Items: []corev1.KeyToPath{{Key: corev1.BasicAuthPasswordKey, Path: corev1.BasicAuthPasswordKey}},
			}},
		})
		spec.Containers[0].VolumeMounts = append(spec.Containers[0].VolumeMounts, corev1.VolumeMount{
			Name: volume, MountPath: nodes.PasswordFolder(name), ReadOnly: true,
		})
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: Name + "-", Namespace: x.Namespace,
			Labels: map[string]string{nameLabel: Name, runLabel: x.id},
		},
		Spec: spec,
	}, nil
}
