//go:build linux

package interop

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/bgp/bfd"
	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/speaker/bfdliveness"
	"github.com/berth-lb/berth/speaker/plan"
)

// node is what a speaker does with BGP.
type node struct {
	settings Settings
	driver   *bgp.Driver
	stop     context.CancelFunc
	ended    *errgroup.Group
}

// startNode starts a speaker's BGP; the node's labels are rack: a.
func startNode(ctx context.Context, log *slog.Logger, settings Settings) (*node, error) {
	ctx, stop := context.WithCancel(ctx)
	engine, err := bfd.New(log, nil)
	if err != nil {
		stop()
		return nil, err
	}
	paths := bfdliveness.New(engine)
	c := bgp.Config{
		Node:     "n1",
		RouterID: netip.MustParseAddr("10.0.0.9"),
		NextHops: []netip.Addr{netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("2001:db8::9")},
		Logger:   log,
		Liveness: paths,
	}
	if settings.Dials {
		c.Listen = ":179"
	}
	driver, err := bgp.New(c)
	if err != nil {
		stop()
		return nil, err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return paths.Run(ctx) })
	group.Go(func() error { return driver.Run(ctx) })
	return &node{settings: settings, driver: driver, stop: stop, ended: group}, nil
}

// end ends the speaker; restarting, as one that the next replaces.
func (n *node) end(restarting bool) error {
	if restarting {
		n.driver.Restart()
	}
	n.stop()
	return n.ended.Wait()
}

// presets are the objects of scripts that have none of their kind.
const presets = `
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: pool}
spec: {addresses: [192.0.2.0/24, "2001:db8:a::/64"], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: RouteAnnouncement
metadata: {name: all}
spec: {poolSelector: {}, neighborSelector: {}, nodeSelector: {}, serviceSelector: {}}
`

// apply tells the driver what a speaker would tell it of these objects.
func (n *node) apply(text string) error {
	objects, err := read(text)
	if err != nil {
		return err
	}
	preset, err := read(presets)
	if err != nil {
		return err
	}
	if len(objects.Pools) == 0 {
		objects.Pools = preset.Pools
	}
	if len(objects.RouteAnnouncements) == 0 {
		objects.RouteAnnouncements = preset.RouteAnnouncements
	}
	snapshot, problems := config.Compile(objects)
	for key, of := range problems {
		for _, p := range of {
			return fmt.Errorf("%s %s: %s", key.Kind, key.Name, p.Message)
		}
	}
	world := plan.World{
		Self: "n1", Snapshot: snapshot, Nodes: map[string]plan.Node{"n1": {Labels: map[string]string{"rack": "a"}}},
	}
	n.driver.SyncPeers(plan.PlanPeers(world))
	service := plan.Service{
		Name: "shop/web", Labels: map[string]string{"app": "web"}, Local: n.settings.Endpoints != "",
	}
	for _, a := range strings.Fields(n.settings.Services) {
		service.Addresses = append(service.Addresses, netip.MustParseAddr(a))
	}
	slices.SortFunc(service.Addresses, netip.Addr.Compare)
	endpoints, err := n.endpoints(service)
	if err != nil {
		return err
	}
	group := plan.Group{ID: "web", Services: []plan.Service{service}, Addresses: service.Addresses}
	services := plan.Classify(group, snapshot)
	n.driver.Sync(group.ID, plan.PlanAnnouncements(group, services, endpoints, plan.Readiness{Shown: true}, world).BGP)
	return nil
}

// endpoints of the Service on the node.
func (n *node) endpoints(service plan.Service) (map[string]candidate.Endpoints, error) {
	if !service.Local {
		return nil, nil
	}
	count, err := strconv.Atoi(n.settings.Endpoints)
	if err != nil {
		return nil, fmt.Errorf("endpoints: %w", err)
	}
	self := "n1"
	var slices []*discoveryv1.EndpointSlice
	for _, family := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
		slice := &discoveryv1.EndpointSlice{AddressType: family}
		for range count {
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{NodeName: &self})
		}
		slices = append(slices, slice)
	}
	return map[string]candidate.Endpoints{service.Name: candidate.Of(slices)}, nil
}

// read reads objects of the API.
func read(text string) (config.Objects, error) {
	objects := config.Objects{Passwords: map[string]string{}}
	for _, document := range strings.Split(text, "\n---\n") {
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(document), &kind); err != nil {
			return objects, err
		}
		var into any
		switch kind.Kind {
		case "LoadBalancerPool":
			into = add(&objects.Pools)
		case "BGPNeighbor":
			into = add(&objects.BGPNeighbors)
		case "RouteAnnouncement":
			into = add(&objects.RouteAnnouncements)
		case "Secret":
			var secret corev1.Secret
			if err := yaml.UnmarshalStrict([]byte(document), &secret); err != nil {
				return objects, err
			}
			objects.Passwords[secret.Name] = secret.StringData["password"]
			continue
		default:
			return objects, fmt.Errorf("an object of kind %q", kind.Kind)
		}
		if err := yaml.UnmarshalStrict([]byte(document), into); err != nil {
			return objects, err
		}
	}
	return objects, nil
}

func add[T v1alpha1.LoadBalancerPool | v1alpha1.BGPNeighbor | v1alpha1.RouteAnnouncement](list *[]*T) *T {
	one := new(T)
	*list = append(*list, one)
	return one
}

// shows is what Berth itself says: the state of BFD, the last error of each session.
func (n *node) shows() (lines []string) {
	for _, p := range n.driver.Status().Peers {
		if p.LastError != "" {
			lines = append(lines, "error "+p.LastError)
		}
		if p.BFD != "" {
			lines = append(lines, "bfd "+string(p.BFD))
		}
		if p.KeepsRoutes {
			lines = append(lines, "keeps routes")
		}
		lines = append(lines, "berth "+p.State)
	}
	return lines
}
