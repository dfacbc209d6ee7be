//go:build linux

package main

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

//go:embed steering.yaml
var steeringYAML string

const (
	heldConnections = 100              // to each of the two Services
	answersWithin   = 10 * time.Second // a connection that lives: longer than its client needs to send again
)

// heldApp has pods on all nodes but n1.
var heldApp = stage.App{Namespace: namespace, Name: "held", Nodes: []string{"n2", "n3"}}

// deploySteered makes two Services of one application: plain, as everybody has them, and steered.
func (d *demo) deploySteered(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "berth-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := d.InstallComponent(ctx, dir, "steering"); err != nil {
		return err
	}
	d.quote(steeringYAML)
	if err := d.Apply(ctx, steeringYAML); err != nil {
		return err
	}
	if err := d.Deploy(ctx, heldApp); err != nil {
		return err
	}
	for _, name := range []string{"plain", "steered"} {
		svc := d.Expose(heldApp, name)
		svc.Annotations = map[string]string{v1alpha1.AnnotationPools: name}
		svc.Spec.IPFamilyPolicy, svc.Spec.IPFamilies = new(corev1.IPFamilyPolicySingleStack), nil
		if name == "steered" {
			svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}
		svc, err := d.Create(ctx, svc)
		if err != nil {
			return err
		}
		d.held = append(d.held, service{name: name, addresses: stage.Addresses(svc)[:1]})
	}
	for _, s := range d.held {
		err := stage.Eventually(ctx, 20*time.Second, func(ctx context.Context) error {
			owner, err := d.Owner(ctx, s.addresses[0])
			if err == nil && owner != "n1" {
				err = fmt.Errorf("%s answers for %s, want n1", owner, s.addresses[0])
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	d.say("n1 answers for both; the pods run on n2 and n3")
	return nil
}

// cutHeld cuts the node off that answers for both Services, and counts the connections that break.
func (d *demo) cutHeld(ctx context.Context) error {
	held := map[string][]*connection{}
	for _, s := range d.held {
		for range heldConnections {
			var c *connection
			err := stage.Eventually(ctx, 10*time.Second, func(ctx context.Context) (err error) {
				c, err = d.connect(ctx, s.addresses[0])
				return err
			})
			if err != nil {
				return err
			}
			defer c.Close()
			held[s.name] = append(held[s.name], c)
		}
	}
	d.say("%d connections of one client to each are open", heldConnections)
	d.dark = "n1"
	if err := d.Cut(d.dark); err != nil {
		return err
	}
	d.say("%s is cut off; each connection is used again", d.dark)
	for _, name := range []string{"plain", "steered"} {
		broken := brokenOf(held[name])
		what := "kube-proxy's way: another node answers, and knows none of them"
		if name == "steered" {
			what = "another node answers, and sends each on to the node that has it"
		}
		d.say("%-8s %3d of %d connections broke (%s)", name+":", broken, heldConnections, what)
		if name == "steered" && broken > 0 {
			return fmt.Errorf("%d connections to the steered Service broke, want none", broken)
		}
	}
	return nil
}

// connection is to a pod, which answers line by line.
type connection struct {
	net.Conn
	answers *bufio.Reader
	pod     string
}

func (d *demo) connect(ctx context.Context, address netip.Addr) (*connection, error) {
	var conn net.Conn
	err := d.In(lab.Client, func() (err error) {
		dialer := net.Dialer{Timeout: patience}
		conn, err = dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(address, 7000).String())
		return err
	})
	if err != nil {
		return nil, err
	}
	c := &connection{Conn: conn, answers: bufio.NewReader(conn)}
	if c.pod, err = c.ask(patience); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return c, nil
}

// ask sends a line, and returns the pod that answers.
func (c *connection) ask(within time.Duration) (pod string, err error) {
	if err := c.SetDeadline(time.Now().Add(within)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(c, "hello"); err != nil {
		return "", err
	}
	line, err := c.answers.ReadBytes('\n')
	if err != nil {
		return "", err
	}
	var answer stage.Answer
	err = json.Unmarshal(line, &answer)
	return answer.Pod, err
}

// brokenOf uses all at once, and counts those that are not answered by the same pod.
func brokenOf(connections []*connection) (broken int) {
	lives := make(chan bool)
	for _, c := range connections {
		go func() {
			pod, err := c.ask(answersWithin)
			lives <- err == nil && pod == c.pod
		}()
	}
	for range connections {
		if !<-lives {
			broken++
		}
	}
	return broken
}
