//go:build linux

package lab

import (
	"bytes"
	"context"
	"fmt"
	"strings"
)

// FilterEtherType drops all frames of an EtherType that pass the segment's switch, as port security
// or a hypervisor does, until PassAll.
func (l *Lab) FilterEtherType(ctx context.Context, etherType uint16) error {
	return l.filter(ctx, fmt.Sprintf("ether type %#04x drop", etherType))
}

// LoseFrames drops this part of all frames, in percent, each for each receiver by chance, until
// PassAll.
func (l *Lab) LoseFrames(ctx context.Context, percent int) error {
	if percent < 1 || percent > 100 {
		return fmt.Errorf("lose %d %% of all frames: want 1 to 100", percent)
	}
	return l.filter(ctx, fmt.Sprintf("numgen random mod 100 <= %d drop", percent-1))
}

// PassAll undoes FilterEtherType and LoseFrames.
func (l *Lab) PassAll(ctx context.Context) error { return l.filter(ctx, "") }

// filter replaces what the switch drops. Block has a table of its own.
func (l *Lab) filter(ctx context.Context, rule string) error {
	rules := "add table bridge filter\ndelete table bridge filter\n"
	if rule != "" {
		rules += "add table bridge filter\n" +
			"add chain bridge filter forward { type filter hook forward priority 0; }\n" +
			"add rule bridge filter forward " + rule + "\n"
	}
	return l.rules(ctx, rack, rules)
}

// APILoss says who cannot reach the API server, and how.
type APILoss struct {
	// Pods are those of the host's network only, such as speakers: they use the address of Service
	// kubernetes. Otherwise the kubelet and kube-proxy lose it, too, and the node is called NotReady.
	Pods bool
	// Refused: connections are reset. Otherwise they are silent, as behind a firewall.
	Refused bool
}

func (a APILoss) String() string {
	who, how := "the whole node", "hears nothing from it"
	if a.Pods {
		who = "the speaker"
	}
	if a.Refused {
		how = "is refused"
	}
	return who + " " + how
}

// LoseAPI keeps processes in a host's network from the API server, those that are connected too,
// until RegainAPI. The segment is not affected.
func (l *Lab) LoseAPI(ctx context.Context, hostName string, loss APILoss) error {
	ends := []string{apiClusterIP4 + " tcp %sport 443"}
	if !loss.Pods {
		ends = append(ends, apiAddress+" tcp %sport 6443")
	}
	verdict := "drop"
	if loss.Refused {
		verdict = "reject with tcp reset"
	}
	rules := noAPILoss + "add table inet noapi\n" +
		// Before the address of the Service is translated, and after it is translated back.
		"add chain inet noapi output { type filter hook output priority -310; }\n" +
		"add chain inet noapi input { type filter hook input priority 110; }\n"
	for _, end := range ends {
		rules += "add rule inet noapi output ip daddr " + fmt.Sprintf(end, "d") + " " + verdict + "\n" +
			"add rule inet noapi input ip saddr " + fmt.Sprintf(end, "s") + " drop\n"
	}
	return l.rules(ctx, hostName, rules)
}

// RegainAPI undoes LoseAPI.
func (l *Lab) RegainAPI(ctx context.Context, hostName string) error {
	return l.rules(ctx, hostName, noAPILoss)
}

// noAPILoss deletes the rules of LoseAPI, which may not be there.
const noAPILoss = "add table inet noapi\ndelete table inet noapi\n"

// rules applies rules of nftables in a host.
func (l *Lab) rules(ctx context.Context, hostName, text string) error {
	cmd := l.Exec(ctx, hostName, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("filter in %s: %w\n%s", hostName, err, bytes.TrimSpace(out))
	}
	return nil
}
