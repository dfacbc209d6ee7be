package cluster

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/pager"

	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/v1alpha1"
)

// Clients talk to the API server with the user's rights.
type Clients struct {
	Config     *rest.Config
	Kubernetes kubernetes.Interface
	Berth      *client.Interface
}

// NewClients returns clients. They do not connect yet.
func NewClients(config *rest.Config) (*Clients, error) {
	config = rest.CopyConfig(config)
	config.QPS, config.Burst = 50, 100
	k, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	b, err := client.New(config)
	if err != nil {
		return nil, err
	}
	return &Clients{Config: config, Kubernetes: k, Berth: b}, nil
}

// pageSize bounds the objects of one answer.
const pageSize = 500

// Read reads the State, all kinds at once. namespace is Berth's own. What the user may not read, or
// the API server does not have, is in State.Missing; an error says that the API server did not
// answer at all.
func Read(ctx context.Context, c *Clients, namespace string) (*State, error) {
	version, err := c.Kubernetes.Discovery().ServerVersion()
	if err != nil {
		return nil, fmt.Errorf("the API server at %s does not answer: %w", c.Config.Host, err)
	}
	s := &State{
		Taken:         time.Now(),
		Namespace:     namespace,
		ServerVersion: version.GitVersion,
		Missing:       map[Resource]error{},
	}
	k := c.Kubernetes
	var work sync.WaitGroup
	var mu sync.Mutex
	// Whether it knows a kind of Berth, lacks one, and has not answered about one.
	known, unknown, failed := false, false, false
	done := func(what Resource, err error) {
		mu.Lock()
		defer mu.Unlock()
		if what.Group == v1alpha1.GroupVersion.Group {
			known = known || err == nil
			unknown = unknown || apierrors.IsNotFound(err)
			failed = failed || err != nil && !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err)
		}
		if err != nil {
			s.Missing[what] = err
		}
	}
	read := func(what Resource, list pager.ListPageFunc, add func(runtime.Object)) {
		work.Go(func() {
			p := pager.New(list)
			p.PageSize = pageSize
			done(what, p.EachListItem(ctx, metav1.ListOptions{}, func(o runtime.Object) error {
				add(o)
				return nil
			}))
		})
	}
	read(Pools, page(c.Berth.LoadBalancerPools.List), into(&s.Pools))
	read(SegmentAnnouncements, page(c.Berth.SegmentAnnouncements.List), into(&s.SegmentAnnouncements))
	read(RouteAnnouncements, page(c.Berth.RouteAnnouncements.List), into(&s.RouteAnnouncements))
	read(BGPNeighbors, page(c.Berth.BGPNeighbors.List), into(&s.BGPNeighbors))
	read(Reservations, page(c.Berth.AddressReservations("").List), into(&s.Reservations))
	read(Speakers, page(c.Berth.Speakers.List), into(&s.Speakers))
	read(Owners, page(c.Berth.L2Owners.List), into(&s.Owners))
	read(Services, page(k.CoreV1().Services("").List), into(&s.Services))
	read(Nodes, page(k.CoreV1().Nodes().List), into(&s.Nodes))
	read(Namespaces, page(k.CoreV1().Namespaces().List), into(&s.Namespaces))
	read(Pods, page(k.CoreV1().Pods(namespace).List), into(&s.Pods))
	read(Events, page(k.CoreV1().Events("").List), func(o runtime.Object) {
		if e, ok := o.(*corev1.Event); ok && concerns(e) {
			s.Events = append(s.Events, e)
		}
	})
	read(EndpointSlices, page(k.DiscoveryV1().EndpointSlices("").List), into(&s.EndpointSlices))
	read(ServiceCIDRs, page(k.NetworkingV1().ServiceCIDRs().List), into(&s.ServiceCIDRs))
	read(Deployments, page(k.AppsV1().Deployments("").List), into(&s.Deployments))
	read(DaemonSets, page(k.AppsV1().DaemonSets("").List), into(&s.DaemonSets))
	read(Leases, page(k.CoordinationV1().Leases(namespace).List), into(&s.Leases))
	work.Wait()
	if s.Uninstalled = unknown && !known && !failed; s.Uninstalled { // which says it of all
		maps.DeleteFunc(s.Missing, func(what Resource, err error) bool {
			return what.Group == v1alpha1.GroupVersion.Group && apierrors.IsNotFound(err)
		})
	}
	return s, ctx.Err()
}

// ReadPasswords reads the passwords of these Secrets in Berth's namespace into a State. Those that
// the user may not read are left out.
func (s *State) ReadPasswords(ctx context.Context, c *Clients, names []string) {
	s.Passwords = map[string]*string{}
	for _, name := range names {
		secret, err := c.Kubernetes.CoreV1().Secrets(s.Namespace).Get(ctx, name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err), err == nil && secret.Type != corev1.SecretTypeBasicAuth:
			s.Passwords[name] = nil
		case err == nil:
			s.Passwords[name] = new(string(secret.Data[corev1.BasicAuthPasswordKey]))
		}
	}
}

// concerns reports whether an event is about something that Berth is about.
func concerns(e *corev1.Event) bool {
	o := e.InvolvedObject
	return o.Kind == "Service" || o.GroupVersionKind().Group == v1alpha1.GroupVersion.Group
}

// page makes a typed list function one of the pager.
func page[L runtime.Object](list func(context.Context, metav1.ListOptions) (L, error)) pager.ListPageFunc {
	return func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		found, err := list(ctx, options)
		if err != nil {
			return nil, err
		}
		if _, err := meta.ListAccessor(found); err != nil {
			return nil, err
		}
		return found, nil
	}
}

func into[T any](all *[]*T) func(runtime.Object) {
	return func(o runtime.Object) {
		if item, ok := o.(any).(*T); ok {
			*all = append(*all, item)
		}
	}
}
