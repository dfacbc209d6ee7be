// Package client gives typed access to the objects of group berth.dev, with the generic client of
// client-go in place of generated code.
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
	LoadBalancerPools    *gentype.ClientWithList[*v1alpha1.LoadBalancerPool, *v1alpha1.LoadBalancerPoolList]
	SegmentAnnouncements *gentype.ClientWithList[*v1alpha1.SegmentAnnouncement, *v1alpha1.SegmentAnnouncementList]
	RouteAnnouncements   *gentype.ClientWithList[*v1alpha1.RouteAnnouncement, *v1alpha1.RouteAnnouncementList]
	BGPNeighbors         *gentype.ClientWithList[*v1alpha1.BGPNeighbor, *v1alpha1.BGPNeighborList]
	L2Owners             *gentype.ClientWithList[*v1alpha1.L2Owner, *v1alpha1.L2OwnerList]
	Speakers             *gentype.ClientWithList[*v1alpha1.Speaker, *v1alpha1.SpeakerList]
	// AddressReservations of a namespace; "" is all.
	AddressReservations func(namespace string) *ReservationClient
}

// ReservationClient is the client for AddressReservations.
type ReservationClient = gentype.ClientWithList[*v1alpha1.AddressReservation, *v1alpha1.AddressReservationList]

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
		LoadBalancerPools: gentype.NewClientWithList("loadbalancerpools", r, codec, "",
			func() *v1alpha1.LoadBalancerPool { return &v1alpha1.LoadBalancerPool{} },
			func() *v1alpha1.LoadBalancerPoolList { return &v1alpha1.LoadBalancerPoolList{} }),
		SegmentAnnouncements: gentype.NewClientWithList("segmentannouncements", r, codec, "",
			func() *v1alpha1.SegmentAnnouncement { return &v1alpha1.SegmentAnnouncement{} },
			func() *v1alpha1.SegmentAnnouncementList { return &v1alpha1.SegmentAnnouncementList{} }),
		RouteAnnouncements: gentype.NewClientWithList("routeannouncements", r, codec, "",
			func() *v1alpha1.RouteAnnouncement { return &v1alpha1.RouteAnnouncement{} },
			func() *v1alpha1.RouteAnnouncementList { return &v1alpha1.RouteAnnouncementList{} }),
		BGPNeighbors: gentype.NewClientWithList("bgpneighbors", r, codec, "",
			func() *v1alpha1.BGPNeighbor { return &v1alpha1.BGPNeighbor{} },
			func() *v1alpha1.BGPNeighborList { return &v1alpha1.BGPNeighborList{} }),
		AddressReservations: func(namespace string) *ReservationClient {
			return gentype.NewClientWithList("addressreservations", r, codec, namespace,
				func() *v1alpha1.AddressReservation { return &v1alpha1.AddressReservation{} },
				func() *v1alpha1.AddressReservationList { return &v1alpha1.AddressReservationList{} })
		},
		L2Owners: gentype.NewClientWithList("l2owners", r, codec, "",
			func() *v1alpha1.L2Owner { return &v1alpha1.L2Owner{} },
			func() *v1alpha1.L2OwnerList { return &v1alpha1.L2OwnerList{} }),
		Speakers: gentype.NewClientWithList("speakers", r, codec, "",
			func() *v1alpha1.Speaker { return &v1alpha1.Speaker{} },
			func() *v1alpha1.SpeakerList { return &v1alpha1.SpeakerList{} }),
	}, nil
}

// Source lists and watches objects of one kind.
type Source[L runtime.Object] interface {
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}

// NewInformer returns an informer, not running yet, over the objects of source. The example is an
// empty object of the kind.
func NewInformer[L runtime.Object](source Source[L], example runtime.Object) cache.SharedIndexInformer {
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return source.List(ctx, o)
		},
		WatchFuncWithContext: source.Watch,
	}
	return cache.NewSharedIndexInformer(
		lw,
		example,
		0,
		cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc},
	)
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
