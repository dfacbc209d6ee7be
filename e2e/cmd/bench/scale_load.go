//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	clientrest "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/berth-lb/berth/e2e/stage"
)

const (
	creators = 16
	workers  = 16 // of the controller, by default, and of its rival
	// deadline of one wait in the measurement of many Services.
	deadline = 5 * time.Minute
)

// The prefixes from which the Services have their addresses.
func pooled() netip.Prefix { return netip.MustParsePrefix("198.18.0.0/15") } // of the pool
func foreign(n int) netip.Prefix { // a rival's
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(n)}), 32)
}

func serviceName(i int) string { return fmt.Sprintf("scale-%d", i) }

// plainService causes no other work: it selects no pods and takes no NodePort (a cluster has fewer
// than 5000 of them).
func plainService(name string) *corev1.Service {
	no := false
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, AllocateLoadBalancerNodePorts: &no, Ports: []corev1.ServicePort{{Port: 80}},
	}}
}

// create creates the Services, and sends each one's name.
func (s *scale) create(ctx context.Context, created chan<- string) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(creators)
	for i := range s.count {
		group.Go(func() error {
			svc := plainService(serviceName(i))
			if _, err := s.Kubernetes.CoreV1().Services(namespace).Create(ctx, svc, metav1.CreateOptions{}); err != nil {
				return fmt.Errorf("create Service %s: %w", svc.Name, err)
			}
			created <- svc.Name
			return nil
		})
	}
	return group.Wait()
}

// clear deletes all Services and waits until they are gone.
func (s *scale) clear(ctx context.Context) error {
	services := s.Kubernetes.CoreV1().Services(namespace)
	list, err := services.List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list Services: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(creators)
	for i := range list.Items {
		group.Go(func() error { return services.Delete(ctx, list.Items[i].Name, metav1.DeleteOptions{}) })
	}
	return group.Wait() // they have no finalizers
}

// passMarkers creates two Services, one after the other, and waits for their addresses. Everything
// that was in the controller's queues before is done then. It returns the number of Services.
func (s *scale) passMarkers(ctx context.Context, t *tally) (int, error) {
	const markers = 2
	for range markers {
		svc := plainService("")
		svc.GenerateName = "marker-"
		made, err := s.Kubernetes.CoreV1().Services(namespace).Create(ctx, svc, metav1.CreateOptions{})
		if err != nil {
			return 0, fmt.Errorf("create a marker: %w", err)
		}
		err = t.read(ctx, func(svc *corev1.Service) bool { return svc.Name == made.Name && len(stage.Addresses(svc)) > 0 })
		if err != nil {
			return 0, fmt.Errorf("no address for Service %s: %w", made.Name, err)
		}
	}
	return markers, nil
}

// rival is a client like the controller's, with as many workers.
type rival struct {
	services func(namespace string) servicePatcher
	token    string
}

type servicePatcher interface {
	Patch(
		ctx context.Context, name string, kind types.PatchType, data []byte, opts metav1.PatchOptions,
		subresources ...string,
	) (*corev1.Service, error)
}

func (s *scale) newRival(ctx context.Context) (*rival, error) {
	seconds := int64(3 * time.Hour / time.Second)
	token, err := s.Kubernetes.CoreV1().ServiceAccounts(stage.Namespace).CreateToken(
		ctx,
		"berth-controller",
		&authenticationv1.TokenRequest{
			Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds},
		},
		metav1.CreateOptions{},
	)
	if err != nil {
		return nil, fmt.Errorf("token of the controller: %w", err)
	}
	admin, err := s.RESTConfig()
	if err != nil {
		return nil, err
	}
	config := clientrest.AnonymousClientConfig(admin)
	config.BearerToken, config.Dial = token.Status.Token, admin.Dial
	// As in cmd/berth.
	config.QPS, config.Burst = 500, 1000
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	set, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("client like the controller's: %w", err)
	}
	return &rival{func(ns string) servicePatcher { return set.CoreV1().Services(ns) }, token.Status.Token}, nil
}

// emptyStatus is a patch after which Berth serves the Service.
const emptyStatus = `{"status":{"loadBalancer":null,"conditions":null}}`

// patchAll writes a status to each named Service.
func (r *rival) patchAll(ctx context.Context, names <-chan string, status []byte) error {
	group, ctx := errgroup.WithContext(ctx)
	for range workers {
		group.Go(func() error {
			for name := range names {
				if _, err := r.services(namespace).Patch(
					ctx, name, types.MergePatchType, status, metav1.PatchOptions{}, "status",
				); err != nil {
					return fmt.Errorf("patch Service %s: %w", name, err)
				}
			}
			return ctx.Err()
		})
	}
	return group.Wait()
}

// bareStatus is a patch of a status of the same length as Berth's.
func bareStatus(address netip.Addr) []byte {
	now := time.Now().UTC().Format(time.RFC3339)
	return fmt.Appendf(nil, `{"status":{"loadBalancer":{"ingress":[{"ip":"%s","ipMode":"VIP"}]},"conditions":[
		{"type":"bench/Allocated","status":"True","reason":"Allocated","message":"has %s","lastTransitionTime":%q},
		{"type":"bench/Announced","status":"True","reason":"Announced","message":"by SegmentAnnouncement many","lastTransitionTime":%q}]}}`,
		address, address, now, now)
}

// tally counts what a watch of the Services shows. It reads only while a method runs.
type tally struct {
	events  <-chan watch.Event
	touched map[string]bool // Services that were modified
}

// withTally watches the Services while do runs.
func (s *scale) withTally(ctx context.Context, do func(context.Context, *tally) error) error {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	services := s.Kubernetes.CoreV1().Services(namespace)
	list, err := services.List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list Services: %w", err)
	}
	// The API server ends a watch whose reader is too slow; this one is resumed.
	w, err := watchtools.NewRetryWatcherWithContext(ctx, list.ResourceVersion, &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return services.Watch(ctx, o)
		},
	})
	if err != nil {
		return fmt.Errorf("watch Services: %w", err)
	}
	defer w.Stop()
	return do(ctx, &tally{events: w.ResultChan(), touched: map[string]bool{}})
}

// read processes events of Services until last returns true.
func (t *tally) read(ctx context.Context, last func(*corev1.Service) bool) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case event, ok := <-t.events:
			if !ok {
				return errors.New("the watch of the Services ended")
			}
			svc, ok := event.Object.(*corev1.Service)
			if !ok {
				return fmt.Errorf("watch of the Services: %v", event.Object)
			}
			if event.Type == watch.Modified {
				t.touched[svc.Name] = true
			}
			if last(svc) {
				return nil
			}
		}
	}
}

// awaitAddresses waits until so many Services have got an address of the prefix.
func (t *tally) awaitAddresses(ctx context.Context, count int, prefix netip.Prefix) error {
	have := map[string]bool{}
	err := t.read(ctx, func(svc *corev1.Service) bool {
		for _, address := range stage.Addresses(svc) {
			if prefix.Contains(address) {
				have[svc.Name] = true
			}
		}
		return len(have) >= count
	})
	if err != nil {
		return fmt.Errorf("%d of %d Services have addresses of %s: %w", len(have), count, prefix, err)
	}
	return nil
}

// changed counts the Services that were modified.
func (t *tally) changed() int { return len(t.touched) }
