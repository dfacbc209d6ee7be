package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of this API.
var GroupVersion = schema.GroupVersion{Group: "berth.dev", Version: "v1alpha1"}

// AddToScheme registers the kinds of this package.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion,
		&LoadBalancerPool{}, &LoadBalancerPoolList{},
		&SegmentAnnouncement{}, &SegmentAnnouncementList{},
		&RouteAnnouncement{}, &RouteAnnouncementList{},
		&BGPNeighbor{}, &BGPNeighborList{},
		&AddressReservation{}, &AddressReservationList{},
		&L2Owner{}, &L2OwnerList{},
		&Speaker{}, &SpeakerList{},
	)
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}
