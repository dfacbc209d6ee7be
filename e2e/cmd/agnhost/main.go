// Command agnhost stands in for Kubernetes' image of that name, in a lab without a registry. Its
// server, `agnhost netexec`, is Kubernetes' own. Under the names curl and dig it is as much of a
// client as Pods of docs/guides/services.md need.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/kubernetes/test/images/agnhost/netexec"
)

func main() {
	var err error
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	switch name := filepath.Base(os.Args[0]); name {
	case "curl":
		err = curl(ctx, os.Stdout, os.Args[1:])
	case "dig":
		err = dig(ctx, os.Stdout, os.Args[1:])
	default:
		root := &cobra.Command{Use: name}
		root.AddCommand(netexec.CmdNetexec)
		err = root.Execute()
	}
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// curl is `curl -s URL`.
func curl(ctx context.Context, out io.Writer, args []string) error {
	if len(args) != 2 || args[0] != "-s" {
		return fmt.Errorf("curl %v: this one is for `curl -s URL` only", args)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, args[1], nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(out, response.Body)
	return err
}

// dig is `dig +short +search [TYPE] NAME`, with the type A (the default), AAAA or SRV. Records are
// sorted, and an alias stands before its addresses. Without the records it writes nothing.
func dig(ctx context.Context, out io.Writer, args []string) error {
	options := []string{"+short", "+search"}
	if len(args) < 3 || !slices.Equal(args[:2], options) {
		return fmt.Errorf("dig %v: this one is for `dig +short +search [TYPE] NAME` only", args)
	}
	name, kind := args[len(args)-1], strings.Join(args[2:len(args)-1], " ")
	lines, err := records(ctx, cmp.Or(kind, "A"), name)
	if e := (*net.DNSError)(nil); errors.As(err, &e) && e.IsNotFound {
		return nil
	}
	for _, line := range lines {
		fmt.Fprintln(out, line)
	}
	return err
}

func records(ctx context.Context, kind, name string) ([]string, error) {
	var lines []string
	switch kind {
	case "SRV":
		_, found, err := net.DefaultResolver.LookupSRV(ctx, "", "", name)
		for _, s := range found {
			lines = append(lines, fmt.Sprintf("%d %d %d %s", s.Priority, s.Weight, s.Port, s.Target))
		}
		slices.Sort(lines)
		return lines, err
	case "A", "AAAA":
		network := map[string]string{"A": "ip4", "AAAA": "ip6"}[kind]
		found, err := net.DefaultResolver.LookupNetIP(ctx, network, name)
		if err != nil {
			return nil, err
		}
		for _, address := range found {
			lines = append(lines, address.Unmap().String())
		}
		slices.Sort(lines)
		// An address has no alias, and no name either.
		if alias, err := net.DefaultResolver.LookupCNAME(ctx, name); err == nil && !strings.HasPrefix(alias, name+".") {
			lines = append([]string{alias}, lines...)
		}
		return lines, nil
	default:
		return nil, fmt.Errorf("dig: type %s: this one knows A, AAAA and SRV", kind)
	}
}
