//go:build linux

package main

import (
	"context"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// steady is a Service whose only pod is on a node that may not announce it, so that clients are
// affected only by the loss of the announcement, no matter which node has the addresses.
type steady struct {
	v4, v6 netip.Addr
	seen   *stage.Capture
}

// steadily makes a part of the measurement out of one that needs the steady Service.
func (b *bench) steadily(measure func(context.Context, *steady) error) func(context.Context) error {
	return func(ctx context.Context) (err error) {
		if b.steady == nil {
			if b.steady, err = b.setSteady(ctx); err != nil {
				return err
			}
		}
		return measure(ctx, b.steady)
	}
}

func (b *bench) setSteady(ctx context.Context) (*steady, error) {
	nodes := b.Nodes()
	app := stage.App{Namespace: namespace, Name: "steady", Nodes: nodes[len(nodes)-1:]}
	if err := b.Deploy(ctx, app); err != nil {
		return nil, err
	}
	err := b.Apply(ctx, `
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: steady}
spec: {allocation: OnRequest, addresses: [172.30.0.252-172.30.0.253, "fd00:30::300-fd00:30::301"], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: SegmentAnnouncement
metadata: {name: steady}
spec:
  poolNames: [steady]
  nodeSelector: {matchExpressions: [{key: kubernetes.io/hostname, operator: NotIn, values: [`+app.Nodes[0]+`]}]}
  serviceSelector: {}
`)
	if err != nil {
		return nil, err
	}
	svc := b.Expose(app, app.Name)
	policy := corev1.IPFamilyPolicyRequireDualStack
	svc.Spec.IPFamilyPolicy = &policy
	svc.Annotations = map[string]string{v1alpha1.AnnotationPools: "steady"}
	if svc, err = b.Create(ctx, svc); err != nil {
		return nil, err
	}
	st := &steady{}
	for _, a := range stage.Addresses(svc) {
		if a.Is4() {
			st.v4 = a
		} else {
			st.v6 = a
		}
	}
	st.seen, err = b.StartCapture(ctx, st.v4, st.v6)
	return st, err
}

// settle waits until all speakers are ready, one of them owns both addresses, both answer, and
// nothing has moved for a while. It returns the owner.
func (b *bench) settle(ctx context.Context, st *steady) (string, error) {
	if err := b.AwaitSpeakers(ctx, true); err != nil {
		return "", err
	}
	// A node that is back may take its addresses back.
	if err := pause(ctx, 2*rest); err != nil {
		return "", err
	}
	owner, err := st.seen.AwaitOwner(ctx, patience, time.Now(), st.v4, st.v6)
	if err != nil {
		return "", err
	}
	return owner.Host, stage.Eventually(ctx, patience, func(ctx context.Context) error {
		for _, address := range []netip.Addr{st.v4, st.v6} {
			if _, err := b.AskHTTP(ctx, lab.Client, address); err != nil {
				return err
			}
		}
		return nil
	})
}
