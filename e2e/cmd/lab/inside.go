//go:build linux

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berth-lb/berth/e2e/host"
	"github.com/berth-lb/berth/e2e/lab"
)

func kubectlCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "kubectl [--name NAME] [--] ARGS...",
		Short:              "Run kubectl against the lab",
		DisableFlagParsing: true, // all flags but a leading --name are kubectl's
		RunE: func(_ *cobra.Command, args []string) error {
			name, args := kubectlArgs(args)
			l, err := lab.Open(name)
			if err != nil {
				return err
			}
			return l.ReplaceWithKubectl(args...)
		},
	}
}

// kubectlArgs removes --name NAME or --name=NAME, and then a --, from the front. A later -- belongs
// to kubectl.
func kubectlArgs(args []string) (name string, rest []string) {
	name = "lab"
	if len(args) >= 2 && args[0] == "--name" {
		name, args = args[1], args[2:]
	} else if len(args) >= 1 {
		if value, ok := strings.CutPrefix(args[0], "--name="); ok {
			name, args = value, args[1:]
		}
	}
	if len(args) >= 1 && args[0] == "--" {
		args = args[1:]
	}
	return name, args
}

func execCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "exec HOST -- CMD [ARGS...]",
		Short:   "Run a command in a host: cp, n1 and up, client, router, remote, rack",
		Example: "  lab exec client -- curl http://172.30.0.200/\n  lab exec router -- vtysh -c 'show bgp summary'",
		Args:    cobra.MinimumNArgs(2),
	}
	name := nameFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		l, err := lab.Open(*name)
		if err != nil {
			return err
		}
		host, argv := hostAndCommand(args)
		if len(argv) == 0 {
			return errors.New("no command is given: lab exec HOST -- CMD [ARGS...]")
		}
		inside := l.Exec(cmd.Context(), host, argv...)
		inside.Stdin, inside.Stdout, inside.Stderr = os.Stdin, os.Stdout, os.Stderr
		err = inside.Run()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return exitStatus(exit.ExitCode())
		}
		return err
	}
	return cmd
}

// hostAndCommand removes the host from the front, and a -- after it, which is there if another --
// before it ended the flags.
func hostAndCommand(args []string) (host string, argv []string) {
	host, argv = args[0], args[1:]
	if len(argv) > 0 && argv[0] == "--" {
		argv = argv[1:]
	}
	return host, argv
}

func loadImageCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "load-image FILE",
		Short: "Import an image archive (docker save) into every node",
		Args:  cobra.ExactArgs(1),
	}
	name := nameFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		l, err := lab.Open(*name)
		if err != nil {
			return err
		}
		if err := l.LoadImage(cmd.Context(), args[0]); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s is on %s\n", args[0], strings.Join(l.Nodes(), ", "))
		return nil
	}
	return cmd
}

// hostBootCommand is the first process of a host; the lab starts it.
func hostBootCommand() *cobra.Command {
	return &cobra.Command{
		Use: "host-boot SPEC", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			spec, err := host.ReadSpec(args[0])
			if err != nil {
				return err
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			return host.Boot(spec, []string{self, "host-serve"})
		},
	}
}

func hostServeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "host-serve", Hidden: true, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return host.Serve(slog.New(slog.NewTextHandler(os.Stderr, nil)))
		},
	}
}

func hostEnterCommand() *cobra.Command {
	return &cobra.Command{
		Use: "host-enter PID -- CMD [ARGS...]", Hidden: true, Args: cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			pid, err := strconv.Atoi(args[0])
			if err != nil {
				return fmt.Errorf("process %q: want a number", args[0])
			}
			status, err := host.Enter(pid, args[1:])
			if err != nil {
				fmt.Fprintln(os.Stderr, "lab:", err)
			}
			if status != 0 {
				return exitStatus(status)
			}
			return err
		},
	}
}
