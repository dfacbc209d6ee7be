//go:build root || release

package plugin

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/berth-lb/berth/kubectl/doctor"
)

// ailment is something wrong that the doctor finds.
type ailment struct {
	id string // of the finding
	// object of the finding must contain it, and what it says the next one.
	object, what string
	also         []doctor.Finding // that it is found by, too
	args         []string         // of the command, beside doctor
	yaml         string
	// do is done after the YAML is applied, and undo takes it back.
	do, undo func(context.Context) error
}

func (a ailment) findings() []doctor.Finding {
	return append([]doctor.Finding{{ID: a.id, Object: a.object, What: a.what}}, a.also...)
}

// lacking returns those of the findings that a report does not have.
func (a ailment) lacking(report doctor.Report) []doctor.Finding {
	return slices.DeleteFunc(a.findings(), func(w doctor.Finding) bool {
		return slices.ContainsFunc(report.Findings, func(f doctor.Finding) bool {
			return f.ID == w.ID && strings.Contains(f.Object, w.Object) && strings.Contains(f.What, w.What)
		})
	})
}

func (a ailment) name() string {
	kind, _, _ := strings.Cut(a.object, " ")
	return strings.TrimSuffix(a.id+"_"+kind, "_")
}

// TestEveryKindIsMade compares what the doctor can find with what is made in the lab: the tables
// that TestDoctor, TestDoctorNodes and, for a release, TestDoctorSlowly go through.
func TestEveryKindIsMade(t *testing.T) {
	made := map[string]bool{}
	for _, a := range slices.Concat(clusterAilments, berthAilments, slowAilments) {
		if a.yaml == "" && a.do == nil && len(a.args) == 0 {
			t.Errorf("%s: nothing makes it", a.id)
		}
		for _, f := range a.findings() {
			made[f.ID] = true
		}
	}
	for _, f := range foundFromNodes {
		made[f.ID] = true
	}
	for _, k := range doctor.Kinds() {
		if !made[k.ID] {
			t.Errorf("no test makes a finding %s: add an ailment", k.ID)
		}
		delete(made, k.ID)
	}
	for id := range made {
		t.Errorf("the doctor has no finding %s", id)
	}
}

// healthy waits until the doctor finds nothing.
func healthy(t *testing.T) {
	t.Helper()
	eventually(t, func(context.Context) error {
		if r := berth(t, "doctor"); r.code != 0 || !strings.Contains(r.out, "Nothing is wrong.") {
			return fmt.Errorf("exit code %d\n%s%s", r.code, r.out, r.err)
		}
		return nil
	})
}

func (a ailment) find(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if a.yaml != "" {
			if _, err := scene.Kubectl(ctx, a.yaml, "delete", "--ignore-not-found", "-f", "-"); err != nil {
				t.Error(err)
			}
		}
		if a.undo != nil {
			if err := a.undo(ctx); err != nil {
				t.Error(err)
			}
		}
	})
	if a.yaml != "" {
		if err := scene.Apply(t.Context(), a.yaml); err != nil {
			t.Fatal(err)
		}
	}
	if a.do != nil {
		if err := a.do(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func(context.Context) error {
		var report doctor.Report
		r := berthJSON(t, &report, append([]string{"doctor"}, a.args...)...)
		if left := a.lacking(report); len(left) > 0 || r.code != 1 {
			return fmt.Errorf("exit code %d, not found: %+v\nin\n%s%s", r.code, left, r.out, r.err)
		}
		return nil
	})
}

// foundFromNodes is what testAiling makes, and only probes on the nodes find.
var foundFromNodes = []doctor.Finding{
	{ID: "pool-address-answered", Object: "LoadBalancerPool rack", What: "172.30.0.247, fd00:30::2f7"},
	{
		ID:     "pool-address-answered-twice",
		Object: "LoadBalancerPool rack",
		What:   "nodes n1 and n2 both answer for 172.30.0.246",
	},
	{ID: "path-mtu", Object: "Node n1", What: "to node n2 (172.30.0.12)"},
	{
		ID:     "rp-filter",
		Object: "Node n1",
		What:   "rp_filter is 1 (strict), and replies to clients beyond the segment leave by away0",
	},
	{
		ID:     "router-unreachable",
		Object: "BGPNeighbor tor",
		What:   "from node n1, 172.30.0.1:179: cannot connect: connection refused",
	},
	{
		ID:     "router-password",
		Object: "BGPNeighbor spine",
		What:   "peer answers without TCP MD5, and not with it",
	},
	{ID: "frames-lost", Object: "Node n1", What: "arrives from n2"},
	{ID: "frames-lost", Object: "Node n2", What: "arrives from n1"},
	{ID: "kernel-feature", Object: "Node n2", What: "has no IPVS (ip_vs)"},
}
