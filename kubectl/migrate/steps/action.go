package steps

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/berth-lb/berth/config/v1alpha1"
)

// manager is the field manager of what is applied.
const manager = "kubectl-berth"

// MadeLabel is on each object that the migration makes.
const MadeLabel = "berth.dev/migration"

// madeFrom is its value.
const madeFrom = "metallb"

// Action is one request that changes the cluster: an object that is applied, or the patch or the
// deletion of one. It may be done again.
type Action struct {
	Resource        schema.GroupVersionResource
	Namespace, Name string
	// Apply is the object, by server-side apply.
	Apply *unstructured.Unstructured
	// Patch is a patch of the type Type; of the status where Status is set.
	Patch  map[string]any
	Type   types.PatchType
	Status bool
}

func berths(resource string) schema.GroupVersionResource {
	return v1alpha1.GroupVersion.WithResource(resource)
}

// The resources that are changed.
var (
	services         = schema.GroupVersionResource{Version: "v1", Resource: "services"}
	nodes            = schema.GroupVersionResource{Version: "v1", Resource: "nodes"}
	pods             = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	secrets          = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
	deployments      = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	daemonSets       = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"}
	l2Advertisements = schema.GroupVersionResource{
		Group:    "metallb.io",
		Version:  "v1beta1",
		Resource: "l2advertisements",
	}
	pools                = berths("loadbalancerpools")
	segmentAnnouncements = berths("segmentannouncements")
	routeAnnouncements   = berths("routeannouncements")
	neighbors            = berths("bgpneighbors")
)

var resources = map[string]schema.GroupVersionResource{
	"Secret": secrets, "L2Advertisement": l2Advertisements, "LoadBalancerPool": pools,
	"SegmentAnnouncement": segmentAnnouncements, "RouteAnnouncement": routeAnnouncements,
	"BGPNeighbor": neighbors,
}

func apply(o *unstructured.Unstructured) Action {
	return Action{
		Resource: resources[o.GetKind()], Namespace: o.GetNamespace(), Name: o.GetName(), Apply: o,
	}
}

func remove(resource schema.GroupVersionResource, namespace, name string) Action {
	return Action{Resource: resource, Namespace: namespace, Name: name}
}

func merge(resource schema.GroupVersionResource, namespace, name string, patch map[string]any) Action {
	return Action{Resource: resource, Namespace: namespace, Name: name, Patch: patch, Type: types.MergePatchType}
}

// label sets a label of an object, or removes it if the value is nil.
func label(resource schema.GroupVersionResource, namespace, name, key string, value any) Action {
	return merge(resource, namespace, name, map[string]any{
		"metadata": map[string]any{"labels": map[string]any{key: value}},
	})
}

// String says what is done, in a few words.
func (a Action) String() string {
	verb := "delete"
	switch {
	case a.Apply != nil:
		verb = "apply"
	case a.Patch != nil:
		verb = "patch"
	}
	return verb + " " + a.object()
}

// object is the object as kubectl takes it.
func (a Action) object() string {
	kind := a.Resource.Resource
	if a.Resource.Group != "" {
		kind += "." + a.Resource.Group
	}
	return kind + "/" + a.Name
}

// Command is the action as a command of kubectl. That for a Secret has the password in a variable
// of the shell, to be set first: what is printed may be kept where others read it.
func (a Action) Command() string {
	if a.Apply != nil && a.Resource == secrets {
		return a.secretCommand()
	}
	if a.Apply != nil {
		text, err := yaml.Marshal(a.Apply.Object)
		if err != nil { // it was decoded from JSON
			panic(err)
		}
		return "kubectl apply --server-side --field-manager=" + manager + " -f - <<'EOF'\n" + string(text) + "EOF"
	}
	words := []string{"kubectl"}
	if a.Namespace != "" {
		words = append(words, "-n", a.Namespace)
	}
	if a.Patch == nil {
		return strings.Join(append(words, "delete", a.object(), "--ignore-not-found"), " ")
	}
	text, err := json.Marshal(a.Patch)
	if err != nil { // as above
		panic(err)
	}
	words = append(words, "patch", a.object())
	if a.Status {
		words = append(words, "--subresource=status")
	}
	if a.Type == types.MergePatchType {
		words = append(words, "--type=merge")
	}
	quoted := "'" + strings.ReplaceAll(string(text), "'", `'\''`) + "'"
	return fmt.Sprint(strings.Join(words, " "), " -p ", quoted)
}

// secretCommand creates a Secret without saying what is in it.
func (a Action) secretCommand() string {
	kind, _, _ := unstructured.NestedString(a.Apply.Object, "type")
	keys := map[string]bool{}
	for _, field := range []string{"data", "stringData"} {
		values, _, _ := unstructured.NestedMap(a.Apply.Object, field)
		for k := range values {
			keys[k] = true
		}
	}
	command := fmt.Sprintf("kubectl -n %s create secret generic %s --type=%s", a.Namespace, a.Name, kind)
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		command += fmt.Sprintf(
			` --from-literal=%s="${PASSWORD:?set it to what the Secret or the BGPPeer of MetalLB has}"`,
			k,
		)
	}
	return command + fmt.Sprintf(" && kubectl -n %s label secret/%s %s=%s", a.Namespace, a.Name, MadeLabel, madeFrom)
}
