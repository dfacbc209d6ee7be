//go:build linux

package lab

import (
	"context"
	_ "embed"
)

// dnsClusterIP is the address of Service kube-system/kube-dns, as dns.yaml has it.
const dnsClusterIP = "10.96.0.10"

//go:embed dns.yaml
var dnsManifest string

// startDNS runs CoreDNS, and waits until it answers.
func (l *Lab) startDNS(ctx context.Context) error {
	if err := l.LoadImage(ctx, l.folder.CoreDNS()); err != nil {
		return err
	}
	if _, err := l.Kubectl(ctx, dnsManifest, "apply", "-f", "-"); err != nil {
		return err
	}
	_, err := l.Kubectl(
		ctx, "", "-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=60s",
	)
	return err
}
