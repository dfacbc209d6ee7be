//go:build release

package release

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/berth-lb/berth/e2e/lab"
)

// spreads has BIRD put all routes of equal cost into its kernel.
const spreads = "protocol kernel { merge paths on; ipv4 { import none; export where source = RTS_BGP; }; }\n"

// spineRoutes has nodes announce the routed Service to BIRD, too.
const spineRoutes = `
apiVersion: berth.dev/v1alpha1
kind: BGPNeighbor
metadata: {name: bird}
spec: {localASN: %d, remoteASN: %d, address: %s, nodeSelector: {}}
---
apiVersion: berth.dev/v1alpha1
kind: RouteAnnouncement
metadata: {name: bird}
spec: {poolNames: [routed], neighborNames: [bird], nodeSelector: {}, serviceSelector: {}}
`

// birdRow has a second router, BIRD, spread the clients' packets, and lose nodes.
func (r *steeringRack) birdRow() steeringRow {
	return steeringRow{
		name: "bird", does: "BIRD takes the router's place, loses two of four nodes, and regains them",
		begin: func(t *testing.T) {
			r.byBIRD(t)
			r.birdUses(t, "n3", "n4")
		},
		end: func(t *testing.T) {
			r.birdUses(t, r.Nodes()...)
			r.byFRR(t)
		},
	}
}

// byBIRD has the router send all packets for the Service to BIRD.
func (r *steeringRack) byBIRD(t *testing.T) {
	t.Helper()
	addresses, err := r.Lab.Addresses(lab.Spine)
	if err != nil {
		t.Fatal(err)
	}
	must(t, func(ctx context.Context) error {
		for _, name := range []string{"ip_forward", "fib_multipath_hash_policy"} {
			if err := r.run(ctx, lab.Spine, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/"+name); err != nil {
				return err
			}
		}
		return r.run(ctx, lab.Spine, "sh", "-c", "echo 0 > /proc/sys/net/ipv4/conf/eth0/send_redirects")
	}, func(ctx context.Context) error {
		return r.Apply(ctx, fmt.Sprintf(spineRoutes, lab.NodeAS, lab.SpineAS, addresses[0]))
	}, func(ctx context.Context) error { return r.ConfigureSpine(ctx, spreads) })
	r.birdUses(t, r.Nodes()...)
	must(t, func(ctx context.Context) error {
		return r.run(ctx, lab.Router, "ip", "route", "add", r.routed.address.String(),
			"via", addresses[0].String(), "metric", "1")
	})
	lasts(t, settles)
}

// byFRR ends what byBIRD began.
func (r *steeringRack) byFRR(t *testing.T) {
	t.Helper()
	must(t, func(ctx context.Context) error {
		return r.run(ctx, lab.Router, "ip", "route", "del", r.routed.address.String(), "metric", "1")
	}, func(ctx context.Context) error {
		_, err := r.Kubectl(ctx, "", "delete", "routeannouncement/bird", "bgpneighbor/bird")
		return err
	}, func(ctx context.Context) error { return r.ConfigureSpine(ctx, "") })
	lasts(t, settles)
}

// birdUses has BIRD exchange routes with these nodes only, and waits until its kernel does.
func (r *steeringRack) birdUses(t *testing.T, nodes ...string) {
	t.Helper()
	for _, node := range r.Nodes() {
		does := "disable"
		if slices.Contains(nodes, node) {
			does = "enable"
		}
		must(t, func(ctx context.Context) error {
			_, err := r.Birdc(ctx, does+" "+node+"four")
			return err
		})
	}
	eventually(t, func(ctx context.Context) error {
		out, err := r.Exec(ctx, lab.Spine, "ip", "-json", "route", "show", r.routed.address.String()).Output()
		if err != nil {
			return err
		}
		var routes []struct {
			NextHops []json.RawMessage `json:"nexthops"`
		}
		if err := json.Unmarshal(out, &routes); err != nil {
			return err
		}
		if len(routes) != 1 || len(routes[0].NextHops) != len(nodes) {
			return fmt.Errorf("BIRD's kernel has %s, want %d next hops", out, len(nodes))
		}
		return nil
	})
	lasts(t, settles)
}

// run runs a command on a host.
func (r *steeringRack) run(ctx context.Context, host string, command ...string) error {
	if out, err := r.Exec(ctx, host, command...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %v: %w: %s", host, command, err, out)
	}
	return nil
}
