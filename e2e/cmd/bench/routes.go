//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// routesOf measures count Services whose addresses every node announces by BGP.
func (b *bench) routesOf(count int) []step {
	return []step{
		{"memory when idle", func(ctx context.Context) error { return b.memory(ctx, "idle") }},
		{"routes of many Services", func(ctx context.Context) error { return b.manyRoutes(ctx, count) }},
		{
			"memory with many routes",
			func(ctx context.Context) error { return b.memory(ctx, fmt.Sprintf("%d_routes", count)) },
		},
	}
}

// manyRoutes reports the time from the last status to the last route on the router. The Services
// have no pods, and kube-proxy is paused, so that only Berth's work is measured.
func (b *bench) manyRoutes(ctx context.Context, count int) error {
	for _, node := range b.Nodes() {
		if err := b.Pause(ctx, "kube-proxy@"+node); err != nil {
			return err
		}
	}
	err := b.Apply(ctx, `
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: many}
spec: {priority: 1000, addresses: [`+pooled().String()+`], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: RouteAnnouncement
metadata: {name: many}
spec: {poolNames: [many], neighborNames: [tor], nodeSelector: {}, serviceSelector: {}}
`)
	if err != nil {
		return err
	}
	if _, err := b.Kubectl(
		ctx, "", "wait", "--for=condition=Ready", "loadbalancerpool/many", "--timeout=30s",
	); err != nil {
		return err
	}
	begun := time.Now()
	var last time.Time
	many := &scale{bench: b, count: count}
	err = many.withTally(ctx, func(ctx context.Context, t *tally) error {
		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() error { return many.create(ctx, make(chan string, count)) })
		group.Go(func() error {
			err := t.awaitAddresses(ctx, count, pooled())
			last = time.Now()
			return err
		})
		return group.Wait()
	})
	if err != nil {
		return err
	}
	if err := stage.Eventually(
		ctx, deadline, func(ctx context.Context) error { return b.prefixes(ctx, count) },
	); err != nil {
		return err
	}
	b.report.add(fmt.Sprintf("services_%d_created_to_last_route", count), time.Since(begun).Seconds(), "s")
	b.report.add(fmt.Sprintf("services_%d_last_status_to_last_route", count), time.Since(last).Seconds(), "s")
	return nil
}

// prefixes returns an error that names the nodes from which the router does not have that many
// prefixes.
func (b *bench) prefixes(ctx context.Context, count int) error {
	out, err := b.Vtysh(ctx, "show bgp ipv4 unicast summary json")
	if err != nil {
		return err
	}
	var summary struct {
		Peers map[string]struct {
			PfxRcd int `json:"pfxRcd"`
		} `json:"peers"`
	}
	if err := json.Unmarshal([]byte(out), &summary); err != nil {
		return fmt.Errorf("the router's summary: %w in %q", err, out)
	}
	for _, node := range b.Nodes() {
		addresses, err := b.Addresses(node)
		if err != nil {
			return err
		}
		if got := summary.Peers[addresses[0].String()].PfxRcd; got < count {
			err = errors.Join(err, fmt.Errorf("%s has %d prefixes of %s, want %d", lab.Router, got, node, count))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
