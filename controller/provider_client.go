package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/config/v1alpha1"
)

// gate lets writes of Services by the service controller pass until it is closed: the service
// controller goes on for a moment after its context ends, and must not write then.
type gate struct {
	context context.Context // ends the writes
	// written is called after every write, with the Service as it is now, or nil if the write failed.
	written func(key string, svc *corev1.Service)
	// signed returns the record to write along with these addresses, nil for none.
	signed func(namespace, name string, addresses []netip.Addr) *metav1.Condition

	mu     sync.RWMutex // held for reading during a write
	closed bool
}

var errClosed = errors.New("this instance does not lead any more")

// close waits for the writes under way, and rejects further ones.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}

// patch runs a write, unless the gate is closed.
func (g *gate) patch(
	ctx context.Context,
	key string,
	do func(context.Context) (*corev1.Service, error),
) (*corev1.Service, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.closed {
		return nil, errClosed
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(g.context, cancel)()
	svc, err := do(ctx)
	if err != nil {
		g.written(key, nil)
		return svc, err
	}
	g.written(key, svc)
	return svc, nil
}

// gatedClient is a client whose patches of Services pass the gate.
type gatedClient struct {
	kubernetes.Interface
	gate *gate
}

func (c gatedClient) CoreV1() typedcorev1.CoreV1Interface {
	return gatedCore{c.Interface.CoreV1(), c.gate}
}

type gatedCore struct {
	typedcorev1.CoreV1Interface
	gate *gate
}

func (c gatedCore) Services(namespace string) typedcorev1.ServiceInterface {
	return gatedServices{c.CoreV1Interface.Services(namespace), namespace, c.gate}
}

type gatedServices struct {
	typedcorev1.ServiceInterface
	namespace string
	gate      *gate
}

func (s gatedServices) Patch(
	ctx context.Context,
	name string,
	kind types.PatchType,
	data []byte,
	o metav1.PatchOptions,
	subresources ...string,
) (*corev1.Service, error) {
	data, err := s.withRecord(name, data)
	if err != nil {
		return nil, err
	}
	return s.gate.patch(ctx, s.namespace+"/"+name, func(ctx context.Context) (*corev1.Service, error) {
		return s.ServiceInterface.Patch(ctx, name, kind, data, o, subresources...)
	})
}

// withRecord adds the record of the addresses to a strategic merge patch of a Service that writes
// addresses. Speakers do not announce addresses without a record, and another write would come
// later.
func (s gatedServices) withRecord(name string, data []byte) ([]byte, error) {
	var patch map[string]any
	if err := json.Unmarshal(data, &patch); err != nil {
		return nil, fmt.Errorf("read the patch of Service %s/%s: %w", s.namespace, name, err)
	}
	status, _ := patch["status"].(map[string]any)
	if _, writes := status["loadBalancer"]; !writes {
		return data, nil
	}
	var addresses []netip.Addr
	balancer, _ := status["loadBalancer"].(map[string]any)
	ingress, _ := balancer["ingress"].([]any)
	for _, entry := range ingress {
		fields, _ := entry.(map[string]any)
		text, _ := fields["ip"].(string)
		if address, err := netip.ParseAddr(text); err == nil {
			addresses = append(addresses, address)
		}
	}
	if signed := s.gate.signed(s.namespace, name, addresses); signed != nil {
		status["conditions"] = []any{signed}
	} else {
		status["conditions"] = []any{map[string]any{"$patch": "delete", "type": v1alpha1.ServiceRecord}}
	}
	return json.Marshal(patch)
}

// tap gives access to the service controller's queue, which has no method for that: it is the
// handler that the service controller registers for Services.
type tap struct{ handler cache.ResourceEventHandler }

// enqueue makes the service controller reconcile the Service.
func (t *tap) enqueue(svc *corev1.Service) { t.handler.OnAdd(svc, false) }

// tappedServices is an informer of Services with a tap.
type tappedServices struct {
	coreinformers.ServiceInformer
	tap      *tap
	concerns func(*corev1.Service) bool
}

func (s tappedServices) Informer() cache.SharedIndexInformer {
	return tappedInformer{s.ServiceInformer.Informer(), s.tap, s.concerns}
}

// tappedInformer shows the service controller only the Services that concern it.
type tappedInformer struct {
	cache.SharedIndexInformer
	tap      *tap
	concerns func(*corev1.Service) bool
}

func (i tappedInformer) AddEventHandlerWithResyncPeriod(
	handler cache.ResourceEventHandler,
	resync time.Duration,
) (cache.ResourceEventHandlerRegistration, error) {
	i.tap.handler = handler
	concerns := func(o any) bool {
		svc, ok := o.(*corev1.Service)
		return ok && i.concerns(svc)
	}
	// The service controller has nothing to do when an object is deleted: the finalizer is gone by
	// then.
	return i.SharedIndexInformer.AddEventHandlerWithResyncPeriod(cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(o any, initial bool) {
			if concerns(o) {
				handler.OnAdd(o, initial)
			}
		},
		UpdateFunc: func(before, after any) {
			if concerns(after) {
				handler.OnUpdate(before, after)
			}
		},
	}, resync)
}

// quietNodes is an informer of Nodes that reports no changes to the service controller. It would
// have nothing to do, and would read its cache of Services without a lock while its workers write
// it.
type quietNodes struct{ coreinformers.NodeInformer }

func (n quietNodes) Informer() cache.SharedIndexInformer {
	return quietInformer{n.NodeInformer.Informer()}
}

type quietInformer struct{ cache.SharedIndexInformer }

// AddEventHandlerWithResyncPeriod adds nothing. The service controller does not use the
// registration.
func (quietInformer) AddEventHandlerWithResyncPeriod(
	cache.ResourceEventHandler,
	time.Duration,
) (cache.ResourceEventHandlerRegistration, error) {
	return nil, nil //nolint:nilnil // see above
}
