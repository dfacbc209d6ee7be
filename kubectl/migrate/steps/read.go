package steps

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/kubectl/lint"
	"github.com/berth-lb/berth/kubectl/migrate"
)

// metallbResources are what is read of MetalLB, with the versions that it serves since 0.15.
var metallbResources = map[string]string{
	"ipaddresspools": "v1beta1", "l2advertisements": "v1beta1", "bgpadvertisements": "v1beta1", "bgppeers": "v1beta2",
	"bfdprofiles": "v1beta1", "communities": "v1beta1", "servicel2statuses": "v1beta1",
}

// Reader reads Snapshots with the user's rights.
type Reader struct {
	Clients *cluster.Clients
	Dynamic dynamic.Interface
	Schemas *lint.Schemas
	// Namespace is Berth's.
	Namespace string
}

// Read returns what the cluster has now. Unlike the State in it, the Snapshot is whole: a missing
// right is an error.
func (r *Reader) Read(ctx context.Context) (*Snapshot, error) {
	state, err := cluster.Read(ctx, r.Clients, r.Namespace)
	if err != nil {
		return nil, err
	}
	s := &Snapshot{State: state}
	for what, err := range state.Missing {
		switch what.Name {
		case "events", "leases", "servicecidrs", "addressreservations":
		default:
			return nil, cluster.Right(err, "list", what.Group, what.Name)
		}
	}
	d := s.daemonSet()
	if d == nil || s.Uninstalled {
		return s, nil // Plan says so
	}
	if err := r.readMetalLB(ctx, s, d.Namespace); err != nil {
		return nil, err
	}
	return s, r.convert(ctx, s)
}

func (r *Reader) readMetalLB(ctx context.Context, s *Snapshot, namespace string) error {
	for resource, version := range metallbResources {
		at := schema.GroupVersionResource{Group: "metallb.io", Version: version, Resource: resource}
		list, err := r.Dynamic.Resource(at).Namespace(namespace).List(ctx, metav1.ListOptions{})
		if apierrors.IsNotFound(err) {
			return fmt.Errorf(
				"MetalLB has no %s of %s: the plan is for MetalLB 0.15 and later",
				resource,
				at.GroupVersion(),
			)
		}
		if err != nil {
			return cluster.Right(err, "list", "metallb.io", resource)
		}
		for i := range list.Items {
			s.MetalLB = append(s.MetalLB, &list.Items[i])
		}
	}
	slices.SortFunc(s.MetalLB, func(a, b *unstructured.Unstructured) int {
		return cmp.Compare(a.GetKind()+"/"+a.GetName(), b.GetKind()+"/"+b.GetName())
	})
	if err := r.selectsServices(ctx, s); err != nil {
		return err
	}
	found, err := r.Clients.Kubernetes.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return cluster.Right(err, "list", "", "pods")
	}
	for i := range found.Items {
		s.MetalLBPods = append(s.MetalLBPods, &found.Items[i])
	}
	if !s.hasBGP() {
		return nil
	}
	if err := r.readRevision(ctx, s); err != nil {
		return err
	}
	if _, loosened := s.daemonSet().Annotations[WasAnnotation]; !loosened {
		return nil // nobody asks
	}
	return r.readSessions(ctx, s)
}

// selectsServices makes sure that an L2Advertisement can select Services: one that could not would
// announce all of them.
func (r *Reader) selectsServices(ctx context.Context, s *Snapshot) error {
	if len(s.advertisements()) == 0 {
		return nil
	}
	const name = "l2advertisements.metallb.io"
	at := schema.GroupVersionResource{
		Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions",
	}
	crd, err := r.Dynamic.Resource(at).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return cluster.Right(err, "get", at.Group, at.Resource)
	}
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	for _, v := range versions {
		fields, _ := v.(map[string]any)
		if _, is, _ := unstructured.NestedMap(
			fields, "schema", "openAPIV3Schema", "properties", "spec", "properties", "serviceSelectors",
		); is {
			return nil
		}
	}
	return errors.New("the L2Advertisements of this MetalLB have no serviceSelectors, by which the plan keeps each " +
		"address on its node: upgrade MetalLB to 0.16 first, or move all at once as the guide on migration says")
}

// readRevision reads the revision of the speakers' DaemonSet.
func (r *Reader) readRevision(ctx context.Context, s *Snapshot) error {
	d := s.daemonSet()
	all, err := r.Clients.Kubernetes.AppsV1().ControllerRevisions(d.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return cluster.Right(err, "list", "apps", "controllerrevisions")
	}
	latest := int64(-1)
	for i := range all.Items {
		if c := &all.Items[i]; metav1.IsControlledBy(c, d) && c.Revision > latest {
			latest, s.Revision = c.Revision, c.Labels["controller-revision-hash"]
		}
	}
	return nil
}

// lastLines is how much of a log is read. A Pod whose sessions are not in it is old.
const lastLines = 2000

// readSessions reads the logs of MetalLB's speakers: the API server has no other word of their
// sessions.
func (r *Reader) readSessions(ctx context.Context, s *Snapshot) error {
	s.Sessions = map[string]map[string]bool{}
	for _, p := range s.MetalLBPods {
		if !is(p, "speaker") || p.Status.Phase != corev1.PodRunning {
			continue
		}
		options := &corev1.PodLogOptions{Container: speakerContainer(p), TailLines: new(int64(lastLines))}
		log, err := r.Clients.Kubernetes.CoreV1().Pods(p.Namespace).GetLogs(p.Name, options).Stream(ctx)
		if apierrors.IsForbidden(err) {
			return cluster.Right(err, "get", "", "pods/log")
		}
		if err != nil {
			continue // it has just begun or ended
		}
		s.Sessions[p.Spec.NodeName] = sessionsIn(log)
		log.Close()
	}
	return nil
}

func speakerContainer(p *corev1.Pod) string {
	for _, c := range p.Spec.Containers {
		if c.Name == "speaker" || c.Name == "metallb-speaker" {
			return c.Name
		}
	}
	return p.Spec.Containers[0].Name
}

// sessionsIn returns for each router whether the log last said that the session came up.
func sessionsIn(log io.Reader) map[string]bool {
	found := map[string]bool{}
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct{ Event, Peer string }
		if json.Unmarshal(lines.Bytes(), &line) != nil || line.Peer == "" {
			continue
		}
		switch line.Event {
		case "sessionUp":
			found[line.Peer] = true
		case "sessionDown", "peerRemoved":
			found[line.Peer] = false
		}
	}
	return found
}

// convert adds what MetalLB's objects are in Berth.
func (r *Reader) convert(ctx context.Context, s *Snapshot) error {
	input := Originals(s.MetalLB)
	for _, p := range s.peers() {
		name, _, _ := unstructured.NestedString(p.Object, "spec", "passwordSecret", "name")
		if name == "" {
			continue
		}
		secret, err := r.Dynamic.Resource(secrets).Namespace(p.GetNamespace()).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return cluster.Right(err, "get", "", "secrets")
		}
		input = append(input, secret)
	}
	for _, svc := range s.Services {
		fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(svc)
		if err != nil {
			return err
		}
		o := &unstructured.Unstructured{Object: fields}
		o.SetAPIVersion("v1")
		o.SetKind("Service")
		input = append(input, o)
	}
	result, err := migrate.From(ctx, r.Schemas, "metallb", r.Namespace, input)
	if err != nil {
		return err
	}
	s.Converted, s.Report = result.Objects, result.Report
	s.Secrets = map[string]bool{}
	theirs, err := r.Dynamic.Resource(secrets).Namespace(r.Namespace).
		List(ctx, metav1.ListOptions{LabelSelector: MadeLabel + "=" + madeFrom})
	if err != nil {
		return cluster.Right(err, "list", "", "secrets")
	}
	for _, o := range theirs.Items {
		s.Secrets[o.GetName()] = true
	}
	for _, o := range s.converted("Secret") {
		there, err := r.Dynamic.Resource(secrets).
			Namespace(o.GetNamespace()).
			Get(ctx, o.GetName(), metav1.GetOptions{})
		if err == nil {
			s.Secrets[o.GetName()] = made(there)
		} else if !apierrors.IsNotFound(err) {
			return cluster.Right(err, "get", "", "secrets")
		}
	}
	return nil
}
