//go:build linux

package main

import (
	"slices"
	"strings"
	"testing"
)

func TestKubectlGetsAllButTheLabsOwnFlags(t *testing.T) {
	for line, want := range map[string]struct{ name, args string }{
		"get nodes":                     {"lab", "get nodes"},
		"-- get nodes":                  {"lab", "get nodes"},
		"--name a get nodes":            {"a", "get nodes"},
		"--name a -- get nodes":         {"a", "get nodes"},
		"--name=a -- get nodes -o name": {"a", "get nodes -o name"},
		"--name a exec pod -- ls --":    {"a", "exec pod -- ls --"},
		"--name a -- exec pod -- ls --": {"a", "exec pod -- ls --"},
		"-n x get pods --name b":        {"lab", "-n x get pods --name b"},
		"--name=a":                      {"a", ""},
		"":                              {"lab", ""},
	} {
		name, args := kubectlArgs(strings.Fields(line))
		if name != want.name || !slices.Equal(args, strings.Fields(want.args)) {
			t.Errorf("lab kubectl %s: lab %q, kubectl %q; want %q, %q", line, name, args, want.name, want.args)
		}
	}
}

func TestExecGetsTheHostAndItsCommand(t *testing.T) {
	for line, want := range map[string]string{
		"client -- curl -s http://172.30.0.200/":          "client curl -s http://172.30.0.200/",
		"--name a client -- curl -s http://172.30.0.200/": "client curl -s http://172.30.0.200/",
		"--name a -- client curl -s http://172.30.0.200/": "client curl -s http://172.30.0.200/",
		"--name a -- client -- sh -c true -- x":           "client sh -c true -- x",
		"client --name a -- sh -c true -- x":              "client sh -c true -- x",
	} {
		cmd := execCommand()
		if err := cmd.ParseFlags(strings.Fields(line)); err != nil {
			t.Errorf("lab exec %s: %v", line, err)
			continue
		}
		host, argv := hostAndCommand(cmd.Flags().Args())
		if got := append([]string{host}, argv...); !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("lab exec %s: %q, want %q", line, got, want)
		}
	}
}
