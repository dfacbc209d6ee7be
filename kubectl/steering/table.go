package steering

import (
	"cmp"
	"fmt"
	"io"
	"strings"
)

// WriteTable writes the report for a reader, with columns that end in tabs.
func (r *Report) WriteTable(w io.Writer) {
	fmt.Fprintf(w, "Service %s/%s: %s %s, client %s\n", r.Namespace, r.Name, r.Protocol, r.Service, r.Client)
	rankings := r.Rankings()
	for _, k := range rankings {
		by := "addresses, ports and protocol"
		if k.BySource {
			by = "the client's address only (sessionAffinity)"
		}
		fmt.Fprintf(w, "\nSlot %d of %d, by %s", k.Slot, k.Slots, by)
		if len(rankings) > 1 {
			fmt.Fprintf(w, ", as %s has it", strings.Join(k.Nodes, " and "))
		}
		fmt.Fprintln(w, "\nRANK\tNODE\tGETS NEW CONNECTIONS")
		for i, n := range k.Ranks {
			fmt.Fprintf(w, "%d\t%s\t%s\n", i+1, n.Node, n.Gets)
		}
	}
	if len(r.Nodes) > 0 {
		fmt.Fprintln(w, "\nPACKETS COME TO\tOWNER\tGO TO\tWHY")
	}
	for _, n := range r.Nodes {
		owner := "-"
		if n.Owner {
			owner = "yes"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", n.By, owner, cmp.Or(n.Node, "-"), cmp.Or(n.Lacking, n.Words()))
	}
	fmt.Fprintf(w, "\nWhy:  %s\n", r.Verdict)
}
