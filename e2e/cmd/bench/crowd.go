//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mdlayher/arp"
	dto "github.com/prometheus/client_model/go"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
	"github.com/berth-lb/berth/internal/promtext"
)

const (
	crowdNamespace = "crowd"
	crowdFew       = 500
	// crowdPatience bounds each of its waits.
	crowdPatience = 15 * time.Minute
	speakerPort   = 7470
	// Each silent address is asked for so often, since each question costs all nodes.
	askedEvery  = 200 * time.Millisecond
	askedAtOnce = 800
)

// crowd measures all of Berth with very many Services, three speakers and kube-proxies: until the
// last of them has its address and answers, beside a client that creates as many and writes their
// statuses itself, and what a new Service takes among them.
type crowd struct {
	*bench
	client kubernetes.Interface
	pods   []corev1.Pod
}

func runCrowd(ctx context.Context, file string, count int) (err error) {
	l, err := lab.Up(ctx, lab.Options{Name: "crowd", Nodes: 3, Router: "none", Log: os.Stderr})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Down(context.WithoutCancel(ctx))) }()
	s, err := stage.New(l, false)
	if err != nil {
		return err
	}
	c := &crowd{bench: &bench{Stage: s, report: newReport(os.Stdout)}}
	var bare, few [2]time.Duration
	var all, some time.Duration
	rush := func(took *time.Duration, n int, berth bool) func(context.Context) error {
		return func(ctx context.Context) (err error) { *took, err = c.rush(ctx, n, berth); return err }
	}
	steps := []step{
		{"prepare", c.prepare},
		{"bare, few", rush(&few[0], crowdFew, false)},
		{"bare", rush(&bare[0], count, false)},
		{"install", c.install},
		{"few", rush(&some, crowdFew, true)},
		{"bare, few, beside Berth", rush(&few[1], crowdFew, false)},
		{"many", rush(&all, count, true)},
	}
	if err := inTurn(ctx, steps); err != nil {
		if ctx.Err() == nil {
			c.Explain(ctx, os.Stderr)
		}
		return err
	}
	c.report.add(fmt.Sprintf("%d_created_until_answered", crowdFew), some.Seconds(), "s")
	c.report.add(
		fmt.Sprintf("%d_created_until_answered_to_bare", crowdFew),
		2*some.Seconds()/(few[0]+few[1]).Seconds(),
		"times_as_long",
	)
	c.report.add(fmt.Sprintf("%d_created_until_answered", count), all.Seconds(), "s")
	c.report.add(fmt.Sprintf("%d_bare_created_and_patched", count), bare[0].Seconds(), "s")
	c.report.add(
		fmt.Sprintf("%d_created_until_answered_to_bare", count),
		all.Seconds()/bare[0].Seconds(),
		"times_as_long",
	)
	return c.report.write(file)
}

// crowdPrefix is on the segment, beside the lab's own.
func crowdPrefix() netip.Prefix { return netip.MustParsePrefix("198.18.0.0/15") }

// prepare gives the hosts of the segment addresses in the prefix, and runs the Pods.
func (c *crowd) prepare(ctx context.Context) error {
	last := netip.MustParseAddr("198.19.255.1")
	for _, host := range append(c.Nodes(), lab.Client) {
		err := c.In(host, func() error {
			link, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			return netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{
				IP: last.AsSlice(), Mask: net.CIDRMask(crowdPrefix().Bits(), 32),
			}})
		})
		if err != nil {
			return fmt.Errorf("give %s an address of %s: %w", host, crowdPrefix(), err)
		}
		last = last.Next()
	}
	config, err := c.RESTConfig()
	if err != nil {
		return err
	}
	config.QPS, config.Burst = 500, 1000 // as in cmd/berth
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	if c.client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	if err := c.Deploy(ctx, everywhere()); err != nil {
		return err
	}
	found, err := c.Kubernetes.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	c.pods = found.Items
	_, err = c.Kubectl(ctx, "", "create", "namespace", crowdNamespace)
	return err
}

func (c *crowd) install(ctx context.Context) error {
	if err := c.Install(ctx); err != nil {
		return err
	}
	if err := c.Apply(ctx, `
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: crowd}
spec: {addresses: [198.18.0.0/16], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: SegmentAnnouncement
metadata: {name: crowd}
spec: {poolNames: [crowd], nodeSelector: {}, serviceSelector: {}}
`); err != nil {
		return err
	}
	if err := c.AwaitSpeakers(ctx, false); err != nil {
		return err
	}
	for _, node := range c.Nodes() {
		if err := c.Urgent(ctx, node); err != nil {
			return err
		}
	}
	return nil
}

// rush creates Services and their EndpointSlices, and returns the time until the last one has an
// address and answers ARP, or without Berth, until this client has written the last status. In the
// end they are deleted, but for many with Berth, among which new ones are measured first.
func (c *crowd) rush(ctx context.Context, n int, berth bool) (time.Duration, error) {
	bound, cancel := context.WithTimeout(ctx, crowdPatience)
	defer cancel()
	events, stop, err := c.watch(bound)
	if err != nil {
		return 0, err
	}
	defer stop()
	asker, err := c.newAsker()
	if err != nil {
		return 0, err
	}
	written, err := c.written()
	if err != nil {
		return 0, err
	}
	gained := map[string]float64{}
	if berth {
		if gained, err = c.gained(bound); err != nil {
			return 0, err
		}
	}
	use, err := beginUse(ctx, c.Lab)
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	group, working := errgroup.WithContext(bound)
	created := make(chan string, n)
	group.Go(func() error { defer close(created); return c.create(working, n, berth, created) })
	if !berth {
		group.Go(func() error { return c.patch(working, created) })
	}
	group.Go(func() error { return asker.run(working, n, events, berth) })
	if err := group.Wait(); err != nil {
		return 0, fmt.Errorf("%s: %w", asker, err)
	}
	took := time.Since(begun)
	name := fmt.Sprintf("%d_created", n)
	if !berth {
		name = "bare_" + name
	}
	if err := use.reportEach(ctx, c.report, name, n); err != nil {
		return 0, err
	}
	if berth && n > crowdFew {
		if err := errors.Join(c.reportWrites(n, written), c.reportGained(bound, n, gained)); err != nil {
			return 0, err
		}
		if err := c.newAmong(ctx, n); err != nil {
			return 0, err
		}
	}
	return took, c.clear(ctx)
}

// written counts what Berth has written, by account, verb and resource.
func (c *crowd) written() (map[string]int, error) {
	counts := map[string]int{}
	for _, account := range []string{"berth-controller", "berth-speaker"} {
		used, err := c.Used(account)
		if err != nil {
			return nil, err
		}
		for right, n := range used {
			if slices.Contains([]string{"create", "update", "patch", "delete"}, right.Verb) {
				counts[strings.Join([]string{account, right.Verb, strings.ReplaceAll(right.Resource, "/", "_")}, "_")] += n
			}
		}
	}
	return counts, nil
}

// reportWrites reports what was written since, for each Service.
func (c *crowd) reportWrites(n int, before map[string]int) error {
	after, err := c.written()
	if err != nil {
		return err
	}
	for _, what := range slices.Sorted(maps.Keys(after)) {
		if more := after[what] - before[what]; more > 0 {
			c.report.add(fmt.Sprintf("%d_created_%s", n, what), float64(more)/float64(n), "for_each_Service")
		}
	}
	return nil
}

// gained counts by cause how often nodes have gained addresses on the segment.
func (c *crowd) gained(ctx context.Context) (map[string]float64, error) {
	sums := map[string]float64{}
	for _, node := range c.Nodes() {
		addresses, err := c.Addresses(node)
		if err != nil {
			return nil, err
		}
		families, err := c.scrape(ctx, netip.AddrPortFrom(addresses[0], speakerPort))
		if err != nil {
			return nil, fmt.Errorf("metrics of the speaker of %s: %w", node, err)
		}
		for _, f := range families {
			if f.GetName() != "berth_l2_moves_total" {
				continue
			}
			for _, m := range f.GetMetric() {
				labels := map[string]string{}
				for _, l := range m.GetLabel() {
					labels[l.GetName()] = l.GetValue()
				}
				if labels["direction"] == "gained" {
					sums[labels["cause"]] += m.GetCounter().GetValue()
				}
			}
		}
	}
	return sums, nil
}

// scrape returns the metrics that somebody serves.
func (c *crowd) scrape(ctx context.Context, from netip.AddrPort) ([]*dto.MetricFamily, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+from.String()+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	response, err := c.HTTPClient(lab.ControlPlane).Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(response.Status)
	}
	if err != nil {
		return nil, err
	}
	return promtext.Decode(text)
}

// reportGained reports how often addresses were gained since: each once, as configured, if no node
// takes another one that lives for dead.
func (c *crowd) reportGained(ctx context.Context, n int, before map[string]float64) error {
	after, err := c.gained(ctx)
	for _, cause := range slices.Sorted(maps.Keys(after)) {
		c.report.add(fmt.Sprintf("%d_created_gained_%s", n, cause), after[cause]-before[cause], "addresses")
	}
	return err
}

// newAmong measures new Services among the others, and for comparison those that get their statuses
// from this client, and whose addresses the client on the segment needs to ask nobody about.
func (c *crowd) newAmong(ctx context.Context, n int) error {
	if err := c.memory(ctx, fmt.Sprintf("%d_services", n)); err != nil {
		return err
	}
	ours, err := c.newOnes(ctx, newcomer{client: lab.Client, announced: c.resolved})
	if err != nil {
		return err
	}
	name := fmt.Sprintf("new_service_among_%d", n)
	c.report.times(name+"_to_address", ours.status)
	c.report.times(name+"_address_to_arp_reply", ours.announced)
	c.report.times(name+"_to_first_answer", ours.untilAnswered())
	bare, err := c.newOnes(ctx, newcomer{
		client: lab.Client, announced: func(netip.Addr) error { return nil }, created: c.publish,
		change: func(_ int, svc *corev1.Service) { svc.Spec.LoadBalancerClass = new("berth.dev/nobody") },
	})
	if err != nil {
		return err
	}
	c.report.times("bare_"+name+"_to_first_answer", bare.untilAnswered())
	return nil
}

// publish writes an address into the status of a Service, which the client finds at n1.
func (c *crowd) publish(ctx context.Context, i int, svc *corev1.Service) error {
	address := netip.AddrFrom4([4]byte{198, 19, 0, byte(i + 1)})
	mac, err := c.NodeMAC("n1")
	if err != nil {
		return err
	}
	if err := c.In(lab.Client, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, IP: address.AsSlice(), HardwareAddr: mac, State: netlink.NUD_PERMANENT,
		})
	}); err != nil {
		return fmt.Errorf("tell the client where %s is: %w", address, err)
	}
	_, err = c.client.CoreV1().Services(svc.Namespace).Patch(
		ctx, svc.Name, types.MergePatchType, bareStatus(address), metav1.PatchOptions{}, "status",
	)
	return err
}

func crowdName(i int) string { return fmt.Sprintf("crowd-%05d", i) }

// create creates Services, each with an endpoint, and sends their names.
func (c *crowd) create(ctx context.Context, n int, berth bool, created chan<- string) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(creators)
	for i := range n {
		group.Go(func() error {
			svc := plainService(crowdName(i))
			svc.Namespace = crowdNamespace
			if !berth {
				svc.Spec.LoadBalancerClass = new("berth.dev/nobody")
			}
			if _, err := c.client.CoreV1().Services(crowdNamespace).Create(ctx, svc, metav1.CreateOptions{}); err != nil {
				return fmt.Errorf("create Service %s: %w", svc.Name, err)
			}
			pod := c.pods[i%len(c.pods)]
			slice := &discoveryv1.EndpointSlice{
				ObjectMeta: metav1.ObjectMeta{
					Name: svc.Name, Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name},
				},
				AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: new(int32(8080))}},
				Endpoints: []discoveryv1.Endpoint{{
					Addresses: []string{pod.Status.PodIP}, NodeName: &pod.Spec.NodeName,
					Conditions: discoveryv1.EndpointConditions{Ready: new(true)},
				}},
			}
			if _, err := c.client.DiscoveryV1().EndpointSlices(crowdNamespace).Create(
				ctx, slice, metav1.CreateOptions{},
			); err != nil {
				return fmt.Errorf("create EndpointSlice %s: %w", slice.Name, err)
			}
			created <- svc.Name
			return nil
		})
	}
	return group.Wait()
}

// patch writes a status of the same length as Berth's to each Service.
func (c *crowd) patch(ctx context.Context, names <-chan string) error {
	group, ctx := errgroup.WithContext(ctx)
	for range workers {
		group.Go(func() error {
			for name := range names {
				if _, err := c.client.CoreV1().Services(crowdNamespace).Patch(
					ctx, name, types.MergePatchType, bareStatus(foreign(1).Addr()), metav1.PatchOptions{}, "status",
				); err != nil {
					return fmt.Errorf("patch Service %s: %w", name, err)
				}
			}
			return ctx.Err()
		})
	}
	return group.Wait()
}

// watch watches the Services.
func (c *crowd) watch(ctx context.Context) (events <-chan watch.Event, stop func(), err error) {
	services := c.Kubernetes.CoreV1().Services(crowdNamespace)
	list, err := services.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, nil, fmt.Errorf("list Services: %w", err)
	}
	w, err := watchtools.NewRetryWatcherWithContext(ctx, list.ResourceVersion, &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return services.Watch(ctx, o)
		},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("watch Services: %w", err)
	}
	return w.ResultChan(), w.Stop, nil
}

// clear deletes all Services, and waits until they and their EndpointSlices are gone.
func (c *crowd) clear(ctx context.Context) error {
	list, err := c.client.CoreV1().Services(crowdNamespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list Services: %w", err)
	}
	group, deleting := errgroup.WithContext(ctx)
	group.SetLimit(creators)
	for i := range list.Items {
		group.Go(func() error {
			name := list.Items[i].Name
			return errors.Join(
				c.client.CoreV1().Services(crowdNamespace).Delete(deleting, name, metav1.DeleteOptions{}),
				c.client.DiscoveryV1().EndpointSlices(crowdNamespace).Delete(deleting, name, metav1.DeleteOptions{}),
			)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return pause(ctx, time.Duration(len(list.Items))*10*time.Millisecond) // what follows from it goes by
}

// asker asks by ARP for the addresses of Services, from the client on the segment.
type asker struct {
	client *arp.Client
	self   netip.Addr

	mu      sync.Mutex
	has     map[string]netip.Addr // guarded by mu; addresses by Service
	silent  map[netip.Addr]bool   // guarded by mu; those that nobody answers for yet
	waiting []netip.Addr          // of run; to be asked for in this turn
}

func (c *crowd) newAsker() (*asker, error) {
	own, err := c.Addresses(lab.Client)
	if err != nil {
		return nil, err
	}
	a := &asker{self: own[0], has: map[string]netip.Addr{}, silent: map[netip.Addr]bool{}}
	return a, c.In(lab.Client, func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		a.client, err = arp.Dial(link)
		return err
	})
}

func (a *asker) close() { _ = a.client.Close() }

func (a *asker) String() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return fmt.Sprintf("%d Services have addresses, %d of these are silent", len(a.has), len(a.silent))
}

// run waits until so many Services have addresses, and if answers, until somebody answers for each.
func (a *asker) run(ctx context.Context, n int, events <-chan watch.Event, answers bool) error {
	var listening sync.WaitGroup
	defer listening.Wait()
	defer a.close()
	listening.Go(a.listen)
	tick := time.NewTicker(askedEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case event, ok := <-events:
			svc, is := event.Object.(*corev1.Service)
			if !ok || !is {
				return fmt.Errorf("watch of the Services: %v", event.Object)
			}
			if event.Type != watch.Deleted {
				a.add(svc)
			}
		case <-tick.C:
			if !answers {
				break
			}
			if err := a.ask(); err != nil {
				return err
			}
		}
		a.mu.Lock()
		done := len(a.has) >= n && (len(a.silent) == 0 || !answers)
		a.mu.Unlock()
		if done {
			return nil
		}
	}
}

// add notes the address of a Service.
func (a *asker) add(svc *corev1.Service) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, address := range stage.Addresses(svc) {
		if _, known := a.has[svc.Name]; !known {
			a.has[svc.Name], a.silent[address] = address, true
		}
	}
}

// ask asks for some addresses that nobody answers for yet, by turns.
func (a *asker) ask() error {
	if len(a.waiting) == 0 {
		a.mu.Lock()
		a.waiting = slices.Collect(maps.Keys(a.silent))
		a.mu.Unlock()
	}
	some := a.waiting[:min(len(a.waiting), askedAtOnce)]
	a.waiting = a.waiting[len(some):]
	for _, address := range some {
		if err := a.client.Request(address); err != nil {
			return fmt.Errorf("ask for %s: %w", address, err)
		}
	}
	return nil
}

// listen notes who answers, until the socket is closed.
func (a *asker) listen() {
	for {
		packet, _, err := a.client.Read()
		if err != nil {
			return
		}
		if packet.Operation == arp.OperationReply && packet.TargetIP == a.self {
			a.mu.Lock()
			delete(a.silent, packet.SenderIP)
			a.mu.Unlock()
		}
	}
}
