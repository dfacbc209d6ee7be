// Package client gives typed access to the objects of group berth.dev, with the
// generic client of client-go in place of generated code.
package client

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/gentype"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/config/v1alpha1"
)

// Interface has one typed client for each kind.
type Interface struct {
	IPPools           *gentype.ClientWithList[*v1alpha1.IPPool, *v1alpha1.IPPoolList]
	L2Advertisements  *gentype.ClientWithList[*v1alpha1.L2Advertisement, *v1alpha1.L2AdvertisementList]
	BGPAdvertisements *gentype.ClientWithList[*v1alpha1.BGPAdvertisement, *v1alpha1.BGPAdvertisementList]
	BGPPeers          *gentype.ClientWithList[*v1alpha1.BGPPeer, *v1alpha1.BGPPeerList]
	IPReservations    func(namespace string) *gentype.ClientWithList[*v1alpha1.IPReservation, *v1alpha1.IPReservationList] // "": all
	L2Owners          func(namespace string) *gentype.ClientWithList[*v1alpha1.L2Owner, *v1alpha1.L2OwnerList]             // "": all
	SpeakerStatuses   *gentype.ClientWithList[*v1alpha1.SpeakerStatus, *v1alpha1.SpeakerStatusList]
}

// New returns clients that talk to the API server of config.
func New(config *rest.Config) (*Interface, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("register %s: %w", v1alpha1.GroupVersion, err)
	}
	c := rest.CopyConfig(config)
	c.GroupVersion = &v1alpha1.GroupVersion
	c.APIPath = "/apis"
	c.ContentType = runtime.ContentTypeJSON
	c.AcceptContentTypes = runtime.ContentTypeJSON
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	r, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("client for %s: %w", v1alpha1.GroupVersion, err)
	}
	codec := runtime.NewParameterCodec(scheme)
	return &Interface{
		IPPools: gentype.NewClientWithList("ippools", r, codec, "",
			func() *v1alpha1.IPPool { return &v1alpha1.IPPool{} },
			func() *v1alpha1.IPPoolList { return &v1alpha1.IPPoolList{} }),
		L2Advertisements: gentype.NewClientWithList("l2advertisements", r, codec, "",
			func() *v1alpha1.L2Advertisement { return &v1alpha1.L2Advertisement{} },
			func() *v1alpha1.L2AdvertisementList { return &v1alpha1.L2AdvertisementList{} }),
		BGPAdvertisements: gentype.NewClientWithList("bgpadvertisements", r, codec, "",
			func() *v1alpha1.BGPAdvertisement { return &v1alpha1.BGPAdvertisement{} },
			func() *v1alpha1.BGPAdvertisementList { return &v1alpha1.BGPAdvertisementList{} }),
		BGPPeers: gentype.NewClientWithList("bgppeers", r, codec, "",
			func() *v1alpha1.BGPPeer { return &v1alpha1.BGPPeer{} },
			func() *v1alpha1.BGPPeerList { return &v1alpha1.BGPPeerList{} }),
		IPReservations: func(namespace string) *gentype.ClientWithList[*v1alpha1.IPReservation, *v1alpha1.IPReservationList] {
			return gentype.NewClientWithList("ipreservations", r, codec, namespace,
				func() *v1alpha1.IPReservation { return &v1alpha1.IPReservation{} },
				func() *v1alpha1.IPReservationList { return &v1alpha1.IPReservationList{} })
		},
		L2Owners: func(namespace string) *gentype.ClientWithList[*v1alpha1.L2Owner, *v1alpha1.L2OwnerList] {
			return gentype.NewClientWithList("l2owners", r, codec, namespace,
				func() *v1alpha1.L2Owner { return &v1alpha1.L2Owner{} },
				func() *v1alpha1.L2OwnerList { return &v1alpha1.L2OwnerList{} })
		},
		SpeakerStatuses: gentype.NewClientWithList("speakerstatuses", r, codec, "",
			func() *v1alpha1.SpeakerStatus { return &v1alpha1.SpeakerStatus{} },
			func() *v1alpha1.SpeakerStatusList { return &v1alpha1.SpeakerStatusList{} }),
	}, nil
}

// Source lists and watches objects of one kind.
type Source[L runtime.Object] interface {
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}

// NewInformer returns an informer, not yet running, over the objects of source.
// The example is an empty object of the kind.
func NewInformer[L runtime.Object](source Source[L], example runtime.Object) cache.SharedIndexInformer {
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return source.List(ctx, o)
		},
		WatchFuncWithContext: source.Watch,
	}
	return cache.NewSharedIndexInformer(lw, example, 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
}

// Stored returns the objects of type T in an informer's cache.
func Stored[T any](informer cache.SharedIndexInformer) []T {
	var objects []T
	for _, o := range informer.GetStore().List() {
		if t, ok := o.(T); ok {
			objects = append(objects, t)
		}
	}
	return objects
}
