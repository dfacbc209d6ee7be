//go:build root

package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// captured are addresses of a Service, and a capture of the hosts that claim them.
type captured struct {
	*rack
	*stage.Capture
	addresses []netip.Addr
}

// capture captures the addresses of Services until the end of the test. It returns each by itself
// when a single node answers for it: two nodes that just had a fault may not agree who comes first,
// and settle it address by address.
func (r *rack) capture(t *testing.T, services ...*corev1.Service) []captured {
	t.Helper()
	var addresses []netip.Addr
	for _, svc := range services {
		addresses = append(addresses, stage.Addresses(svc)...)
	}
	for _, address := range addresses {
		r.forwarded(t, address)
	}
	begun := time.Now()
	capture, err := r.StartCapture(context.WithoutCancel(t.Context()), addresses...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := capture.Stop(); err != nil {
			t.Error(err)
		}
	})
	var each []captured
	for _, address := range addresses {
		one := captured{rack: r, Capture: capture, addresses: []netip.Addr{address}}
		one.sole(t, begun)
		each = append(each, one)
	}
	return each
}

// sole waits until one node is the owner of all the addresses, judging by what was captured since
// the given time.
func (c captured) sole(t *testing.T, since time.Time) stage.Owner {
	t.Helper()
	owner, err := c.AwaitOwner(t.Context(), patience, since, c.addresses...)
	if err != nil {
		t.Fatal(err)
	}
	return owner
}

// answered waits until the last requests for each of the addresses were answered by any node,
// judging by what was captured since the given time.
func (c captured) answered(t *testing.T, since time.Time) {
	t.Helper()
	if err := c.AwaitAnswers(t.Context(), patience, since, c.addresses...); err != nil {
		t.Fatal(err)
	}
}

// serves waits until both addresses are served to both clients, with the neighbor caches that they
// have. Under policy Local a Pod of the owner serves them; if an owner is given, it must be that
// node's Pod.
func (c captured) serves(t *testing.T, owner string) {
	t.Helper()
	for _, address := range c.addresses {
		for _, host := range []string{lab.Client, lab.Remote} {
			eventually(t, func(ctx context.Context) error {
				// kube-proxy soon stops using a Pod that cannot be reached.
				ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
				defer cancel()
				answer, err := c.AskHTTP(ctx, host, address)
				if err == nil && owner != "" && answer.Node != owner {
					err = fmt.Errorf("%s reaches %s at %s, want its owner %s", host, address, answer.Node, owner)
				}
				return err
			})
		}
	}
}

// told waits until an owner has announced all the addresses unasked, with its own hardware address,
// since the given time.
func (c captured) told(t *testing.T, owner string, since time.Time) {
	t.Helper()
	mac, err := c.NodeMAC(owner)
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range c.addresses {
		eventually(t, func(context.Context) error {
			seen := c.Of(address).Since(since).By(owner)
			for _, s := range seen {
				if s.Gratuitous && s.MAC == mac.String() {
					return nil
				}
			}
			return fmt.Errorf("%s answered %d times for %s, and has not told unasked that it is at %s", owner, len(seen), address, mac)
		})
	}
}

// silent checks that a node did not claim an address between two points in time.
func (c captured) silent(t *testing.T, node string, from, to time.Time) {
	t.Helper()
	for _, address := range c.addresses {
		seen := c.Of(address).Between(from, to)
		if n := len(seen.By(node)); n > 0 {
			t.Errorf("%s answered %d times for %s, which is another's: %s", node, n, address, seen)
		}
	}
}

// corrected checks that a node that was stopped answered once at most for each address that is
// another's by now: it had decided to when it was stopped. The owner announces the address after
// that.
func (c captured) corrected(t *testing.T, node, owner string, from, to time.Time) {
	t.Helper()
	for _, address := range c.addresses {
		late := c.Of(address).Between(from, to).By(node)
		switch len(late) {
		case 0:
			continue
		case 1:
			t.Logf("%s sent an answer for %s that it had decided on: %s", node, address, late)
		default:
			t.Errorf("%s answered %d times for %s, which is another's: %s", node, len(late), address, late)
		}
		c.told(t, owner, late[len(late)-1].At)
	}
}

// whole waits until every speaker is ready and hears all others. It does not need the API server.
func (r *rack) whole(t *testing.T) {
	t.Helper()
	for _, node := range r.Nodes() {
		r.hears(t, node, len(r.Nodes())-1)
	}
}

// hears waits until the speaker of a node is ready and hears this number of others.
func (r *rack) hears(t *testing.T, node string, peers int) {
	t.Helper()
	addresses, err := r.Lab.Addresses(node)
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + netip.AddrPortFrom(addresses[0], 7470).String()
	want := fmt.Sprintf("\nberth_l2_peers{interface=\"eth0\"} %d\n", peers)
	eventually(t, func(ctx context.Context) error {
		if _, err := r.fetch(ctx, node, url+"/readyz"); err != nil {
			return err
		}
		text, err := r.fetch(ctx, node, url+"/metrics")
		if err == nil && !strings.Contains(text, want) {
			err = fmt.Errorf("the speaker of %s does not have %d peers on its segment", node, peers)
		}
		return err
	})
}

// fetch gets a page in a host.
func (r *rack) fetch(ctx context.Context, host, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := r.HTTPClient(host).Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s says %s: %s", url, response.Status, text)
	}
	return string(text), err
}
