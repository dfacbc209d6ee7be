package doctor

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/berth-lb/berth/kubectl/cluster"
)

// Extras are what only the doctor needs to know of a cluster.
type Extras struct {
	// Pods are those of all namespaces that use a port or the network of their node.
	Pods []*corev1.Pod
	// KubeProxy is the configuration of kube-proxy as kubeadm has it in a ConfigMap; "": there is
	// none.
	KubeProxy string
	// PolicyAPI: the API server has ValidatingAdmissionPolicies.
	PolicyAPI bool
	// Definitions are the CRDs of Berth that there are, by name.
	Definitions map[string]*unstructured.Unstructured
	// Foreign are objects that make another load balancer serve Services, by resource.
	Foreign map[cluster.Resource][]unstructured.Unstructured

	PriorityClasses []schedulingv1.PriorityClass
	Validating      []admissionv1.ValidatingWebhookConfiguration
	Mutating        []admissionv1.MutatingWebhookConfiguration
	Policies        []admissionv1.ValidatingAdmissionPolicy
	PolicyBindings  []admissionv1.ValidatingAdmissionPolicyBinding
	Roles           []rbacv1.Role
	RoleBindings    []rbacv1.RoleBinding
	ClusterRoles    []rbacv1.ClusterRole
	ClusterBindings []rbacv1.ClusterRoleBinding

	// Missing is what could not be read, and why.
	Missing map[cluster.Resource]error
}

// Resources that are read here.
var (
	allPods         = cluster.Resource{Name: "pods"}
	configMaps      = cluster.Resource{Name: "configmaps"}
	definitions     = cluster.Resource{Group: "apiextensions.k8s.io", Name: "customresourcedefinitions"}
	priorityClasses = cluster.Resource{Group: "scheduling.k8s.io", Name: "priorityclasses"}
	validating      = cluster.Resource{Group: "admissionregistration.k8s.io", Name: "validatingwebhookconfigurations"}
	mutating        = cluster.Resource{Group: "admissionregistration.k8s.io", Name: "mutatingwebhookconfigurations"}
	policies        = cluster.Resource{Group: "admissionregistration.k8s.io", Name: "validatingadmissionpolicies"}
	policyBindings  = cluster.Resource{Group: "admissionregistration.k8s.io", Name: "validatingadmissionpolicybindings"}
	roles           = cluster.Resource{Group: "rbac.authorization.k8s.io", Name: "roles"}
	roleBindings    = cluster.Resource{Group: "rbac.authorization.k8s.io", Name: "rolebindings"}
	clusterRoles    = cluster.Resource{Group: "rbac.authorization.k8s.io", Name: "clusterroles"}
	clusterBindings = cluster.Resource{Group: "rbac.authorization.k8s.io", Name: "clusterrolebindings"}

	ciliumPools = cluster.Resource{Group: "cilium.io", Name: "ciliumloadbalancerippools"}
	calicoBGP   = cluster.Resource{Group: "crd.projectcalico.org", Name: "bgpconfigurations"}
)

// Read reads the Extras. What the user may not read is in Extras.Missing.
func Read(ctx context.Context, c *cluster.Clients, namespace string) (*Extras, error) {
	k := c.Kubernetes
	x := &Extras{
		Missing: map[cluster.Resource]error{}, Definitions: map[string]*unstructured.Unstructured{},
		Foreign: map[cluster.Resource][]unstructured.Unstructured{},
	}
	var work sync.WaitGroup
	var mu sync.Mutex
	read := func(what cluster.Resource, do func() error) {
		work.Go(func() {
			if err := do(); err != nil && !apierrors.IsNotFound(err) {
				mu.Lock()
				defer mu.Unlock()
				x.Missing[what] = err
			}
		})
	}
	all := metav1.ListOptions{}
	read(allPods, func() error {
		for next := all; ; {
			next.Limit = 500
			list, err := k.CoreV1().Pods("").List(ctx, next)
			if err != nil {
				return err
			}
			for i := range list.Items {
				if usesNode(&list.Items[i]) {
					x.Pods = append(x.Pods, &list.Items[i])
				}
			}
			if next.Continue = list.Continue; next.Continue == "" {
				return nil
			}
		}
	})
	read(configMaps, func() error {
		found, err := k.CoreV1().ConfigMaps("kube-system").Get(ctx, "kube-proxy", metav1.GetOptions{})
		if err == nil {
			x.KubeProxy = found.Data["config.conf"]
		}
		return err
	})
	read(priorityClasses, func() error {
		list, err := k.SchedulingV1().PriorityClasses().List(ctx, all)
		if err == nil {
			x.PriorityClasses = list.Items
		}
		return err
	})
	read(validating, func() error {
		list, err := k.AdmissionregistrationV1().ValidatingWebhookConfigurations().List(ctx, all)
		if err == nil {
			x.Validating = list.Items
		}
		return err
	})
	read(mutating, func() error {
		list, err := k.AdmissionregistrationV1().MutatingWebhookConfigurations().List(ctx, all)
		if err == nil {
			x.Mutating = list.Items
		}
		return err
	})
	read(policies, func() error {
		list, err := k.AdmissionregistrationV1().ValidatingAdmissionPolicies().List(ctx, all)
		if x.PolicyAPI = !apierrors.IsNotFound(err); err == nil {
			x.Policies = list.Items
		}
		return err
	})
	read(policyBindings, func() error {
		list, err := k.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().List(ctx, all)
		if err == nil {
			x.PolicyBindings = list.Items
		}
		return err
	})
	read(roles, func() error {
		list, err := k.RbacV1().Roles(namespace).List(ctx, all)
		if err == nil {
			x.Roles = list.Items
		}
		return err
	})
	read(roleBindings, func() error {
		list, err := k.RbacV1().RoleBindings(namespace).List(ctx, all)
		if err == nil {
			x.RoleBindings = list.Items
		}
		return err
	})
	read(clusterRoles, func() error {
		list, err := k.RbacV1().ClusterRoles().List(ctx, all)
		if err == nil {
			x.ClusterRoles = list.Items
		}
		return err
	})
	read(clusterBindings, func() error {
		list, err := k.RbacV1().ClusterRoleBindings().List(ctx, all)
		if err == nil {
			x.ClusterBindings = list.Items
		}
		return err
	})
	raw := func(path string) (unstructured.UnstructuredList, error) {
		var list unstructured.UnstructuredList
		text, err := k.Discovery().
			RESTClient().
			Get().
			AbsPath(path).
			SetHeader("Accept", "application/json").
			Do(ctx).
			Raw()
		if err != nil {
			return list, err
		}
		return list, json.Unmarshal(text, &list)
	}
	read(definitions, func() error {
		list, err := raw("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")
		for i := range list.Items {
			if name := list.Items[i].GetName(); strings.HasSuffix(name, "."+berthGroup) {
				x.Definitions[name] = &list.Items[i]
			}
		}
		return err
	})
	// Their kinds are there in many clusters that do not use them.
	foreign := func(what cluster.Resource, versions ...string) {
		read(what, func() error {
			for _, v := range versions {
				list, err := raw("/apis/" + what.Group + "/" + v + "/" + what.Name)
				if apierrors.IsNotFound(err) {
					continue
				}
				mu.Lock()
				defer mu.Unlock()
				x.Foreign[what] = list.Items
				return err
			}
			return nil
		})
	}
	foreign(ciliumPools, "v2", "v2alpha1")
	foreign(calicoBGP, "v1")
	work.Wait()
	return x, ctx.Err()
}

// usesNode reports whether a Pod has a port of its node, or runs in its network.
func usesNode(pod *corev1.Pod) bool {
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return false
	}
	return pod.Spec.HostNetwork || slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool {
		return slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.HostPort != 0 })
	})
}

// lacks says what could not be read.
func (x *Extras) lacks() []string { return cluster.Unread(x.Missing, "was not looked at") }

func (x *Extras) lack(what cluster.Resource) bool { return x.Missing[what] != nil }
