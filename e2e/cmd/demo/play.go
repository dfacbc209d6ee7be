//go:build linux

package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

//go:embed berth.yaml
var berthYAML string

//go:embed web.yaml
var webYAML string

const namespace = "demo"

// service is a Service of the demo.
type service struct {
	name      string
	addresses []netip.Addr
	byBGP     bool
	local     bool // externalTrafficPolicy
}

// play runs all steps between the start and the end of the lab.
func (d *demo) play(ctx context.Context) error {
	for _, s := range []struct {
		title string
		do    func(context.Context) error
	}{
		{"Install Berth: kubectl apply -f manifests/berth.yaml", d.install},
		{"Configure pools, announcements and the router", d.configure},
		{"Deploy a web application with Services on both pools", d.deploy},
		{"Request every address from both clients", d.ask},
		{"Put a second application on the nodes that do not answer for its address", d.deploySteady},
		{"Cut the node that answers for it off, while clients go on asking", d.cut},
		{"Plug the cable in again", d.heal},
		{"Request every address once more", d.ask},
		{"Turn steering on, and give an application a steered Service beside a plain one", d.deploySteered},
		{"Cut the node that answers for both off, while a client holds connections", d.cutHeld},
	} {
		if err := d.step(ctx, s.title, s.do); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) install(ctx context.Context) error {
	if err := d.Install(ctx); err != nil {
		return err
	}
	pods, err := d.Kubectl(ctx, "", "-n", stage.Namespace, "get", "pods", "-o", "wide")
	d.quote(pods)
	return err
}

func (d *demo) configure(ctx context.Context) error {
	d.quote(berthYAML)
	if err := d.Apply(ctx, berthYAML); err != nil {
		return err
	}
	if err := d.AwaitSpeakers(ctx, true); err != nil {
		return err
	}
	d.say("")
	speakers, err := d.Kubectl(ctx, "", "get", "speakers")
	d.quote(speakers)
	return err
}

func (d *demo) deploy(ctx context.Context) error {
	d.quote(webYAML)
	if err := d.Apply(ctx, webYAML); err != nil {
		return err
	}
	if _, err := d.Kubectl(ctx, "", "-n", namespace, "rollout", "status", "deployment/web", "--timeout=60s"); err != nil {
		return err
	}
	for _, s := range []service{
		{name: "web-l2"},
		{name: "web-bgp", byBGP: true, local: true},
		{name: "web-bgp6", byBGP: true, local: true},
	} {
		addresses, err := d.addressesOf(ctx, s.name)
		if err != nil {
			return err
		}
		s.addresses = addresses
		d.services = append(d.services, s)
		if err := d.awaitServed(ctx, s); err != nil {
			return err
		}
	}
	d.say("")
	list, err := d.Kubectl(ctx, "", "-n", namespace, "get", "services")
	d.quote(list)
	return err
}

// addressesOf waits until the Service has addresses of all its families.
func (d *demo) addressesOf(ctx context.Context, name string) ([]netip.Addr, error) {
	var svc *corev1.Service
	err := stage.Eventually(ctx, 10*time.Second, func(ctx context.Context) error {
		var err error
		svc, err = d.Kubernetes.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil && len(stage.Addresses(svc)) != len(svc.Spec.IPFamilies) {
			err = fmt.Errorf(
				"service %s wants %v and has %v: %v", name, svc.Spec.IPFamilies, stage.Addresses(svc),
				svc.Status.Conditions,
			)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return stage.Addresses(svc), nil
}

// deploySteady makes a Service whose pods are not on the node that answers for it, so that nothing
// but the announcement is lost with that node.
func (d *demo) deploySteady(ctx context.Context) error {
	app := stage.App{Namespace: namespace, Name: "steady"}
	svc, err := d.Create(ctx, d.Expose(app, app.Name))
	if err != nil {
		return err
	}
	address := stage.Addresses(svc)[0]
	err = stage.Eventually(ctx, 10*time.Second, func(ctx context.Context) error {
		var err error
		d.steady, err = d.Owner(ctx, address)
		return err
	})
	if err != nil {
		return err
	}
	for _, n := range d.Nodes() {
		if n != d.steady {
			app.Nodes = append(app.Nodes, n)
		}
	}
	if err := d.Deploy(ctx, app); err != nil {
		return err
	}
	s := service{name: app.Name, addresses: stage.Addresses(svc)}
	d.services = append(d.services, s)
	d.say("Service steady has %v; %s answers for them; the pods run on %s", s.addresses, d.steady, strings.Join(app.Nodes, " and "))
	return d.awaitServed(ctx, s)
}

func (d *demo) heal(ctx context.Context) error {
	healed := time.Now()
	if err := d.Heal(d.dark); err != nil {
		return err
	}
	if _, err := d.Kubectl(ctx, "", "wait", "--for=condition=Ready", "node/"+d.dark, "--timeout=60s"); err != nil {
		return fmt.Errorf("%s did not come back: %w", d.dark, err)
	}
	if _, err := d.Kubectl(ctx, "", "-n", namespace, "rollout", "status", "deployment/web", "--timeout=60s"); err != nil {
		return err
	}
	if err := errors.Join(d.AwaitBerth(ctx), d.AwaitSpeakers(ctx, true)); err != nil {
		return err
	}
	for _, s := range d.services {
		if err := d.awaitServed(ctx, s); err != nil {
			return err
		}
	}
	d.say("%s after the cable was back, %s is Ready, its routes are back, and its pods answer again", since(healed), d.dark)
	return nil
}

// awaitServed waits until every node announces the Service, if it is by BGP, and every pod answers.
func (d *demo) awaitServed(ctx context.Context, s service) error {
	for _, address := range s.addresses {
		if s.byBGP {
			if err := d.AwaitRoutes(ctx, 20*time.Second, address, d.Nodes()...); err != nil {
				return err
			}
		}
		err := stage.Eventually(ctx, 20*time.Second, func(ctx context.Context) error {
			t, err := d.tally(ctx, lab.Client, address)
			if err != nil {
				return err
			}
			return errors.Join(d.misses(s, address, lab.Client, t)...)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// suggest prints commands to try in a lab that is kept.
func (d *demo) suggest() {
	fmt.Fprintf(d.out, "\nThe lab stays up (DEMO_KEEP=1). Try:\n")
	for _, command := range []string{
		"status --name demo",
		"kubectl --name demo get services -A",
		"kubectl --name demo get berth",
		"kubectl --name demo -n demo describe service web-l2",
		"exec --name demo client -- curl -s http://172.30.0.200/",
		"exec --name demo client -- ip neigh",
		"exec --name demo remote -- curl -s http://198.51.100.10/",
		"exec --name demo router -- vtysh -c 'show bgp ipv4 unicast'",
		"cut --name demo n1",
		"heal --name demo n1",
		"down --name demo",
	} {
		d.say(".cache/bin/lab %s", command)
	}
}

// quote prints text indented.
func (d *demo) quote(text string) {
	_, _ = indented{d.out}.Write([]byte(text))
}

// indented writes lines two columns further in. Each Write is of whole lines.
type indented struct{ io.Writer }

func (i indented) Write(text []byte) (int, error) {
	for line := range strings.Lines(string(text)) {
		if _, err := fmt.Fprintf(i.Writer, "  %s\n", strings.TrimSuffix(line, "\n")); err != nil {
			return 0, err
		}
	}
	return len(text), nil
}

func since(t time.Time) string { return fmt.Sprintf("%.1f s", time.Since(t).Seconds()) }
