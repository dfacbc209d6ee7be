//go:build root

package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berth-lb/berth/kubectl/forecast"
	"github.com/berth-lb/berth/kubectl/view"
)

// differ says what applying objects would do, or deleting them.
func differ(t *testing.T, text string, args ...string) (r forecast.Report) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "change.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if said := berthJSON(t, &r, append([]string{"diff", "-f", file}, args...)...); said.code != 1 {
		t.Fatalf("diff: exit code %d\n%s%s", said.code, said.out, said.err)
	}
	return r
}

// sessions returns since when the nodes' sessions with the router are up.
func sessions(t *testing.T) map[string]string {
	t.Helper()
	var all []view.Session
	up := map[string]string{}
	if r := berthJSON(t, &all, "bgp", "sessions"); r.code == 2 {
		t.Fatalf("bgp sessions: %+v", r)
	}
	for _, s := range all {
		if s.Since != nil && s.State == "Established" {
			up[s.Node] = s.Since.String()
		}
	}
	return up
}

// What diff says of owners, routes and sessions comes so. What it says of addresses is compared by
// the tests of the API, over random changes.
func TestDiff(t *testing.T) {
	address := expose(t, "diff")
	ip := netip.MustParseAddr(address)
	owner, err := scene.Owner(t.Context(), ip)
	if err != nil {
		t.Fatal(err)
	}
	other := scene.Nodes()[1-slices.Index(scene.Nodes(), owner)]

	elsewhere := fmt.Sprintf(`{apiVersion: berth.dev/v1alpha1, kind: SegmentAnnouncement, metadata: {name: rack},
spec: {poolNames: [rack], nodeSelector: {matchLabels: {kubernetes.io/hostname: %s}}, serviceSelector: {}}}`, other)
	before, err := scene.Kubectl(t.Context(), "", "get", "segmentannouncements.berth.dev", "rack", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := scene.Apply(context.WithoutCancel(t.Context()), stripped(before)); err != nil {
			t.Error(err)
		}
	})
	if r := differ(t, elsewhere); !slices.ContainsFunc(r.Owners, func(o forecast.Owner) bool {
		return o.Address == address && o.Before == owner && o.After == other
	}) {
		t.Errorf("owners: %+v, want %s to go from %s to %s", r.Owners, address, owner, other)
	}
	if err := scene.Apply(t.Context(), elsewhere); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(ctx context.Context) error {
		now, err := scene.Owner(ctx, ip)
		if err == nil && now != other {
			err = fmt.Errorf("%s answers for %s, foreseen %s", now, address, other)
		}
		return err
	})

	neighbor, err := scene.Kubectl(t.Context(), "", "get", "bgpneighbors.berth.dev", "tor", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	patched := strings.Replace(stripped(neighbor), `"holdTime":"3s"`, `"holdTime":"6s"`, 1)
	up := sessions(t)
	r := differ(t, patched)
	if len(r.Sessions) != 2 || r.Sessions[0].Change != forecast.Changed || len(r.Addresses)+len(r.Owners) > 0 {
		t.Errorf("another hold time: %+v, want two sessions to be reset", r)
	}
	t.Cleanup(func() {
		if err := scene.Apply(context.WithoutCancel(t.Context()), stripped(neighbor)); err != nil {
			t.Error(err)
		}
	})
	if err := scene.Apply(t.Context(), patched); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(context.Context) error {
		for _, node := range scene.Nodes() {
			if now := sessions(t)[node]; now == "" || now == up[node] {
				return errors.New("the session of " + node + " was not reset")
			}
		}
		return nil
	})

	if r := differ(t, stripped(neighbor), "--delete"); len(r.Sessions) != 2 ||
		r.Sessions[0].Change != forecast.Deleted {
		t.Errorf("without the neighbor: %+v, want its sessions to end", r)
	}
	if r := berth(t, "diff"); r.code != 2 {
		t.Errorf("diff without files: %+v", r)
	}
}

// stripped returns an object as one writes it: without what the API server adds.
func stripped(text string) string {
	var o struct {
		APIVersion string         `json:"apiVersion"`
		Kind       string         `json:"kind"`
		Metadata   map[string]any `json:"metadata"`
		Spec       map[string]any `json:"spec"`
	}
	if json.Unmarshal([]byte(text), &o) != nil {
		return text
	}
	o.Metadata = map[string]any{"name": o.Metadata["name"]}
	written, _ := json.Marshal(o)
	return string(written)
}
