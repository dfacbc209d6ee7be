//go:build linux

package main

import (
	"context"
	"fmt"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

const (
	pace     = 5 * time.Millisecond  // between requests to steady
	slowPace = 20 * time.Millisecond // and to the others
	patience = 2 * time.Second       // of a client, for one answer
)

// watched is a client that keeps sending requests.
type watched struct {
	service, client string
	every           time.Duration
	*stage.Watch
}

// cut pulls the cable of the node that answers for steady and shows what clients see: first the
// move of the announcement, then the loss of the node's pods.
func (d *demo) cut(ctx context.Context) error {
	clients := []*watched{
		{service: "steady", client: lab.Client, every: pace},
		{service: "web-l2", client: lab.Client, every: slowPace},
		{service: "web-bgp", client: lab.Remote, every: slowPace},
	}
	for _, c := range clients {
		c.Watch = d.StartWatch(ctx, c.client, d.service(c.service).addresses[0], c.every, patience, false)
		defer c.Stop()
		if err := served(ctx, c, time.Time{}, 20); err != nil {
			return err
		}
	}
	d.dark = d.steady
	if err := d.Cut(d.dark); err != nil {
		return err
	}
	at := time.Now()
	d.say("%s is cut off", d.dark)
	if err := d.showMove(ctx, clients[0], at); err != nil {
		return err
	}
	return d.showPods(ctx, clients, at)
}

// showMove waits until another node answers for steady and prints the gap.
func (d *demo) showMove(ctx context.Context, steady *watched, at time.Time) error {
	if err := served(ctx, steady, at, 20); err != nil {
		return fmt.Errorf("no node took over after %s was cut off: %w", d.dark, err)
	}
	// The cache is only read: announcements alone must update it.
	mac, err := d.Neighbor(lab.Client, d.service("steady").addresses[0])
	if err != nil {
		return err
	}
	if d.steady = d.HostOf(mac); d.steady == d.dark || d.steady == "" {
		return fmt.Errorf("%s was cut off, and %q answers for its address", d.dark, mac)
	}
	d.say("steady:  %s answers now. A client that had the old neighbor in its cache and sent a request every %s got no answer", d.steady, pace)
	d.say("         for %d ms: this is the failover time of the announcement", steady.Record().Gap().Milliseconds())
	return nil
}

// showPods waits until Kubernetes and the router no longer use the node, and prints what the
// clients saw until then.
func (d *demo) showPods(ctx context.Context, clients []*watched, at time.Time) error {
	if err := stage.Eventually(ctx, 40*time.Second, d.podIsUnready); err != nil {
		return err
	}
	d.say("Kubernetes marked the pods on %s as not ready %s after the cut (the lab is configured for that: the default is about 50 s)", d.dark, since(at))
	if err := d.AwaitRoutes(ctx, 10*time.Second, d.service("web-bgp").addresses[0], d.without(d.dark)...); err != nil {
		return err
	}
	for _, c := range clients {
		if err := steadily(ctx, c, 25); err != nil {
			return fmt.Errorf("clients of %s are not served without %s: %w", c.service, d.dark, err)
		}
		after := c.Stop().SentAfter(at)
		failed := after.Failed()
		last := ""
		if len(failed) > 0 {
			last = fmt.Sprintf(", the last of them sent %.1f s after the cut", failed.LastSent().Sub(at).Seconds())
		}
		d.say("%-8s %d of %d requests from %s were not answered within %s%s", c.service+":", len(failed), len(after), c.client, patience, last)
	}
	d.say("web-l2 has a pod on %s: kube-proxy keeps sending it a third of the requests until Kubernetes marks it as not ready", d.dark)
	d.say("web-bgp has a route through %s: the router keeps using it until the hold time of 3 s expires", d.dark)
	return nil
}

// podIsUnready fails as long as web has a ready endpoint on the dark node.
func (d *demo) podIsUnready(ctx context.Context) error {
	slices, err := d.Kubernetes.DiscoveryV1().EndpointSlices(
		namespace,
	).List(
		ctx,
		metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=web-l2"},
	)
	if err != nil {
		return err
	}
	for _, s := range slices.Items {
		for _, e := range s.Endpoints {
			if e.NodeName != nil && *e.NodeName == d.dark && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
				return fmt.Errorf("the pod of web on %s is still ready for Kubernetes", d.dark)
			}
		}
	}
	return nil
}

// served waits until n requests that were sent after the given time were answered.
func served(ctx context.Context, c *watched, after time.Time, n int) error {
	return stage.Eventually(ctx, 20*time.Second, func(context.Context) error {
		record := c.Record().SentAfter(after)
		if good := record.Good(); len(good) < n {
			return fmt.Errorf("of %d requests from %s to %s %d were answered", len(record), c.client, c.service, len(good))
		}
		return nil
	})
}

// steadily waits until n requests in a row were answered, and for long enough that a request
// without an answer would have failed.
func steadily(ctx context.Context, c *watched, n int) error {
	from := time.Now()
	return stage.Eventually(ctx, 20*time.Second, func(context.Context) error {
		record := c.Record()
		if failed := record.Failed(); len(failed) > 0 && failed[len(failed)-1].Done.After(from) {
			from = failed[len(failed)-1].Done
		}
		if good := record.SentAfter(from).Good(); len(good) < n || time.Since(from) < 2*patience {
			return fmt.Errorf("%d requests in a row were answered, want %d", len(good), n)
		}
		return nil
	})
}

func (d *demo) service(name string) service {
	for _, s := range d.services {
		if s.name == name {
			return s
		}
	}
	return service{name: name}
}

func (d *demo) without(node string) []string {
	var others []string
	for _, n := range d.Nodes() {
		if n != node {
			others = append(others, n)
		}
	}
	return others
}
