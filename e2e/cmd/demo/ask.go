//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/berth-lb/berth/e2e/lab"
)

// asks is the number of requests of each client to each address, enough that no pod is left out by
// chance.
const asks = 45

// ask sends requests to every address of every Service from both clients, and prints which pods
// answered and which client address they saw.
func (d *demo) ask(ctx context.Context) error {
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "SERVICE\tADDRESS\tANNOUNCED BY\tREQUESTED FROM\tPODS THAT ANSWERED\tCLIENT THAT THEY SAW")
	var wrong []error
	for _, s := range d.services {
		for _, address := range s.addresses {
			by, err := d.announcers(ctx, s, address)
			if err != nil {
				return err
			}
			for _, client := range []string{lab.Client, lab.Remote} {
				t, err := d.tally(ctx, client, address)
				if err != nil {
					return err
				}
				wrong = append(wrong, d.misses(s, address, client, t)...)
				fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", s.name, address, by, client, t.pods(), t.clients())
			}
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	d.quote(text.String())
	if len(wrong) > 0 {
		return errors.Join(wrong...)
	}
	d.say("web-bgp keeps the client's address (externalTrafficPolicy Local); web-l2 shows the address of the node that the request came through")
	return nil
}

func (d *demo) announcers(ctx context.Context, s service, address netip.Addr) (string, error) {
	if s.byBGP {
		nodes, err := d.Routes(ctx, address)
		return "BGP: " + strings.Join(nodes, " "), err
	}
	node, err := d.Owner(ctx, address)
	if address.Is6() {
		return "NDP: " + node, err
	}
	return "ARP: " + node, err
}

// tally counts the answers by pod, and by the client address that the pods saw.
type tally struct {
	by   map[string]int
	seen map[netip.Addr]bool
}

func (d *demo) tally(ctx context.Context, client string, address netip.Addr) (tally, error) {
	t := tally{by: map[string]int{}, seen: map[netip.Addr]bool{}}
	for range asks {
		answer, err := d.AskHTTP(ctx, client, address)
		if err != nil {
			return t, fmt.Errorf("request %s from %s: %w", address, client, err)
		}
		t.by[answer.Node+" "+answer.Pod[strings.LastIndexByte(answer.Pod, '-')+1:]]++
		t.seen[answer.ClientAddress()] = true
	}
	return t, nil
}

// misses returns an error for each deviation from what is expected.
func (d *demo) misses(s service, address netip.Addr, client string, t tally) []error {
	var wrong []error
	want := len(d.Nodes())
	if s.name == "steady" {
		want-- // none on the node that answers for it
	}
	if len(t.by) != want {
		wrong = append(wrong, fmt.Errorf("%s: %d pods answered %s, want %d", address, len(t.by), client, want))
	}
	own, err := d.Addresses(client)
	if err != nil {
		return append(wrong, err)
	}
	for seen := range t.seen {
		if s.local && !slices.Contains(own, seen) {
			wrong = append(wrong, fmt.Errorf("%s: a pod saw %s instead of %s", address, seen, client))
		}
	}
	return wrong
}

func (t tally) pods() string {
	var each []string
	for pod, n := range t.by {
		each = append(each, fmt.Sprintf("%s: %d", pod, n))
	}
	slices.Sort(each)
	return strings.Join(each, ", ")
}

func (t tally) clients() string {
	var each []string
	for a := range t.seen {
		each = append(each, a.String())
	}
	slices.Sort(each)
	return strings.Join(each, " ")
}
