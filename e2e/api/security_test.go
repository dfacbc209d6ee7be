//go:build root

package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// objectsOf returns the objects of manifests/ with components of it.
func objectsOf(t *testing.T, components ...string) []*unstructured.Unstructured {
	t.Helper()
	manifest, err := stage.Manifest()
	must(t, err)
	dir := t.TempDir()
	base, err := filepath.Rel(dir, filepath.Dir(manifest))
	must(t, err)
	text := "resources: [" + base + "]\ncomponents:\n"
	for _, c := range components {
		text += "  - " + filepath.Join(base, c) + "\n"
	}
	must(t, os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o600))
	out, err := scene.Kubectl(t.Context(), "", "kustomize", dir)
	must(t, err)
	var found []*unstructured.Unstructured
	for decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(out), 4096); ; {
		o := &unstructured.Unstructured{}
		if err := decoder.Decode(o); errors.Is(err, io.EOF) {
			return found
		} else if err != nil {
			t.Fatal(err)
		}
		found = append(found, o)
	}
}

// podOf returns the Pod that a Deployment or DaemonSet makes.
func podOf(t *testing.T, o *unstructured.Unstructured) *corev1.Pod {
	t.Helper()
	var owner appsv1.Deployment // a DaemonSet has its template at the same place
	must(t, runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &owner))
	template := owner.Spec.Template
	template.GenerateName = "pod-"
	return &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
}

// may reports whether the API server lets a user do something with objects of Berth's API, or of
// the core.
func may(t *testing.T, user string, groups []string, ns, verb, resource string) bool {
	t.Helper()
	group := "berth.dev"
	if plain, isCore := strings.CutPrefix(resource, "core/"); isCore {
		group, resource = "", plain
	}
	resource, subresource, _ := strings.Cut(resource, "/")
	review, err := scene.Kubernetes.AuthorizationV1().SubjectAccessReviews().Create(
		t.Context(),
		&authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: user, Groups: groups, ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: ns, Verb: verb, Group: group, Resource: resource, Subresource: subresource,
			},
		}},
		metav1.CreateOptions{},
	)
	must(t, err)
	return review.Status.Allowed
}

// The component restricted moves the controller to a namespace that enforces the Pod Security
// Standard restricted, with the rights that it has in berth-system.
func TestRestricted(t *testing.T) {
	const own = "berth-controller"
	objects := objectsOf(t, "metrics-auth", "cloud-provider", "network-policy", "restricted")
	t.Cleanup(func() {
		ctx := context.Background()
		_, _ = scene.Kubectl(ctx, "", "delete", "namespace", own, "--wait=false")
		_, _ = scene.Kubectl(ctx, "", "delete", "clusterrolebinding", "berth-metrics-auth", "berth-cloud-provider")
		_, _ = scene.Kubectl(ctx, "", "delete", "clusterrole", "berth-metrics-reader", "berth-cloud-provider")
		must(t, prepare(ctx)) // binds the rights to the ServiceAccount in berth-system again
	})
	var controller, speaker *corev1.Pod
	var rest []string
	for _, o := range objects {
		switch o.GetKind() {
		case "Deployment":
			controller = podOf(t, o)
		case "DaemonSet":
			speaker = podOf(t, o)
		default:
			text, err := o.MarshalJSON()
			must(t, err)
			rest = append(rest, string(text))
		}
	}
	// As a list: kubectl before 1.33 reads no JSON in several documents.
	must(t, scene.Apply(t.Context(), `{"apiVersion": "v1", "kind": "List", "items": [`+strings.Join(rest, ",")+"]}"))
	dry := func(ns string, pod *corev1.Pod) error {
		_, err := scene.Kubernetes.CoreV1().Pods(ns).Create(
			t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}},
		)
		return err
	}
	must(t, dry(own, controller))
	speaker.Spec.ServiceAccountName = "berth-controller" // the speaker's is in the other namespace
	if err := dry(own, speaker); err == nil || !strings.Contains(err.Error(), "violates PodSecurity") {
		t.Errorf("a speaker in namespace %s: %v", own, err)
	}
	policies := scene.Kubernetes.NetworkingV1().NetworkPolicies(own)
	_, err := policies.Get(t.Context(), "berth-controller", metav1.GetOptions{})
	must(t, err)

	const user = "system:serviceaccount:" + own + ":berth-controller"
	for _, right := range []struct {
		ns, verb, resource string
		want               bool
	}{
		{ns: stage.Namespace, verb: "list", resource: "core/secrets", want: true},
		{ns: stage.Namespace, verb: "update", resource: "core/services/status", want: true},
		{ns: stage.Namespace, verb: "patch", resource: "core/services/status", want: true}, // of cloud-provider
		{verb: "update", resource: "loadbalancerpools/status", want: true},
		{ns: own, verb: "list", resource: "core/secrets"},
		{ns: "kube-system", verb: "list", resource: "core/secrets"},
	} {
		if got := may(t, user, nil, right.ns, right.verb, right.resource); got != right.want {
			t.Errorf("the controller may %s %s in %q: %t", right.verb, right.resource, right.ns, got)
		}
	}
	if may(t, "system:serviceaccount:"+stage.Namespace+":berth-controller", nil, stage.Namespace, "list", "core/secrets") {
		t.Error("the ServiceAccount in berth-system still has the rights")
	}
}

// Users of a namespace see and edit reservations there, and nothing else of Berth.
func TestTenantRoles(t *testing.T) {
	ns := namespace(t)
	for _, role := range []string{"view", "edit", "admin"} {
		_, err := scene.Kubernetes.RbacV1().RoleBindings(ns).Create(t.Context(), &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: role},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: role}},
		}, metav1.CreateOptions{})
		must(t, err)
	}
	_, err := scene.Kubernetes.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: ns},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "berth-view"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "reader"}},
	}, metav1.CreateOptions{})
	must(t, err)
	t.Cleanup(func() {
		must(t, scene.Kubernetes.RbacV1().ClusterRoleBindings().Delete(context.Background(), ns, metav1.DeleteOptions{}))
	})
	for _, c := range []struct {
		user, verb, resource string
		want                 bool
	}{
		{user: "view", verb: "get", resource: "addressreservations", want: true},
		{user: "view", verb: "watch", resource: "addressreservations", want: true},
		{user: "view", verb: "create", resource: "addressreservations"},
		{user: "view", verb: "list", resource: "loadbalancerpools"},
		{user: "edit", verb: "list", resource: "addressreservations", want: true},
		{user: "edit", verb: "create", resource: "addressreservations", want: true},
		{user: "edit", verb: "delete", resource: "addressreservations", want: true},
		{user: "edit", verb: "update", resource: "addressreservations/status"},
		{user: "edit", verb: "create", resource: "loadbalancerpools"},
		{user: "edit", verb: "create", resource: "bgpneighbors"},
		{user: "admin", verb: "patch", resource: "addressreservations", want: true},
		{user: "admin", verb: "update", resource: "addressreservations/status"},
		{user: "admin", verb: "delete", resource: "l2owners"},
		{user: "reader", verb: "list", resource: "loadbalancerpools", want: true},
		{user: "reader", verb: "watch", resource: "l2owners", want: true},
		{user: "reader", verb: "update", resource: "loadbalancerpools"},
		{user: "reader", verb: "list", resource: "core/nodes", want: true},
		{user: "reader", verb: "list", resource: "core/secrets"},
		{user: "reader", verb: "create", resource: "core/pods"},
	} {
		must(t, stage.Eventually(t.Context(), patience, func(context.Context) error { // roles are aggregated soon
			if got := may(t, c.user, nil, ns, c.verb, c.resource); got != c.want {
				return fmt.Errorf("%s may %s %s: %t", c.user, c.verb, c.resource, got)
			}
			return nil
		}))
	}
}

// The program serves metrics over TLS to those whom the API server lets read them, also while
// another leads.
func TestProgramMetricsOverTLS(t *testing.T) {
	ns := namespace(t)
	manifest, err := stage.Manifest()
	must(t, err)
	rights := filepath.Join(filepath.Dir(manifest), "metrics-auth", "rbac.yaml")
	_, err = scene.Kubectl(t.Context(), "", "apply", "-f", rights)
	must(t, err)
	t.Cleanup(func() {
		_, err := scene.Kubectl(context.Background(), "", "delete", "-f", rights)
		must(t, err)
	})
	bearer := func(account string) string {
		_, err := scene.Kubernetes.CoreV1().ServiceAccounts(ns).Create(
			t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{},
		)
		must(t, err)
		token, err := scene.Kubernetes.CoreV1().ServiceAccounts(ns).CreateToken(
			t.Context(), account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{},
		)
		must(t, err)
		return token.Status.Token
	}
	prometheus, tenant := bearer("prometheus"), bearer("tenant")
	_, err = scene.Kubectl(t.Context(), "", "create", "clusterrolebinding", ns, "--clusterrole=berth-metrics-reader",
		"--serviceaccount="+ns+":prometheus")
	must(t, err)
	t.Cleanup(func() {
		_, err := scene.Kubectl(context.Background(), "", "delete", "clusterrolebinding", ns)
		must(t, err)
	})

	p := newPrograms(t)
	p.start(t, "leads", "--metrics-listen=127.0.0.1:7471")
	awaitLeader(t, "leads")
	p.start(t, "waits", "--metrics-listen=127.0.0.1:7472").awaitLog(t, `"leader":"leads"`)
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return scene.Dial(ctx, lab.ControlPlane, network, address)
		},
	}}
	defer client.CloseIdleConnections()
	for _, c := range []struct {
		name, token string
		want        int
	}{
		{name: "no token", want: http.StatusUnauthorized},
		{name: "a token of nobody", token: "x", want: http.StatusUnauthorized},
		{name: "a tenant", token: tenant, want: http.StatusForbidden},
		{name: "Prometheus", token: prometheus, want: http.StatusOK},
	} {
		for _, port := range []string{"7471", "7472"} {
			must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
				r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://127.0.0.1:"+port+"/metrics", nil)
				if err != nil {
					return err
				}
				if c.token != "" {
					r.Header.Set("Authorization", "Bearer "+c.token)
				}
				response, err := client.Do(r)
				if err != nil {
					return err
				}
				defer response.Body.Close()
				text, err := io.ReadAll(response.Body)
				if err != nil {
					return err
				}
				if response.StatusCode != c.want || strings.Contains(string(text), "berth_") != (c.want == http.StatusOK) {
					return fmt.Errorf("%s on port %s: %s, %d bytes", c.name, port, response.Status, len(text))
				}
				return nil
			}))
		}
	}
}
