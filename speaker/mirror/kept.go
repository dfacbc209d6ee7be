package mirror

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/speaker/stored"
)

// others is what the cache keeps of an L2Owner that names another node, as nearly all do in a large
// cluster: the claim, and what it takes to write over it.
type others struct {
	name, resourceVersion      string
	uid                        types.UID
	generation, term           int64
	address                    string
	node, segment, ifname, mac string
	witnessed, tentative       bool
}

// keep returns what is kept of an L2Owner.
func (m *Mirror) keep(o *v1alpha1.L2Owner) runtime.Object {
	if o.Status.NodeName == m.Node {
		o.ManagedFields = nil
		return o
	}
	return &others{
		name: o.Name, resourceVersion: o.ResourceVersion, uid: o.UID, generation: o.Generation,
		address: o.Status.Address, node: stored.Shared(o.Status.NodeName), segment: stored.Shared(o.Status.Segment),
		ifname: stored.Shared(o.Status.Interface), mac: stored.Shared(o.Status.MAC),
		term: o.Status.Term, witnessed: o.Status.Witnessed, tentative: o.Status.Tentative,
	}
}

// GetObjectMeta implements metav1.ObjectMetaAccessor. What it returns is a copy.
func (o *others) GetObjectMeta() metav1.Object {
	m := o.meta()
	return &m
}

func (o *others) meta() metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: o.name, UID: o.uid, ResourceVersion: o.resourceVersion, Generation: o.generation,
	}
}

// GetObjectKind implements runtime.Object.
func (*others) GetObjectKind() schema.ObjectKind {
	return &metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "L2Owner"}
}

// DeepCopyObject implements runtime.Object. Nobody changes what is kept.
func (o *others) DeepCopyObject() runtime.Object { return o }

// ownerOf returns the L2Owner as far as it is kept, nil if it is something else.
func ownerOf(kept any) *v1alpha1.L2Owner {
	switch o := kept.(type) {
	case *v1alpha1.L2Owner:
		return o
	case *others:
		return &v1alpha1.L2Owner{
			ObjectMeta: o.meta(),
			Status: v1alpha1.L2OwnerStatus{
				Address: o.address, NodeName: o.node, Segment: o.segment, Interface: o.ifname, MAC: o.mac,
				Term: o.term, Witnessed: o.witnessed, Tentative: o.tentative,
			},
		}
	}
	return nil
}

// owners calls each for the L2Owners in the cache that name this node; "": for all.
func (m *Mirror) owners(node string, each func(*v1alpha1.L2Owner)) {
	for _, kept := range m.informer.GetStore().List() {
		if o, is := kept.(*others); is && node != "" && o.node != node {
			continue
		}
		if owner := ownerOf(kept); owner != nil && (node == "" || owner.Status.NodeName == node) {
			each(owner)
		}
	}
}
