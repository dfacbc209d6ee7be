package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/kubectl/dashboard"
	"github.com/berth-lb/berth/kubectl/follow"
	"github.com/berth-lb/berth/kubectl/ui"
	"github.com/berth-lb/berth/kubectl/why"
)

func uiCommand(c *common) *cobra.Command {
	var port int
	cmd := &cobra.Command{
		Use:   "ui",
		Short: "Show pools, Services, owners and sessions on a page in the browser, as they change",
		Long: `Show pools, Services, owners and sessions on a page in the browser, as they change.

The page is served on this machine only, to a browser that opens the URL that is
printed, with your own rights. It changes nothing.`,
		Example: `  # Print the URL of the page, and serve it until ctrl-c
  kubectl berth ui

  # On a port of your choice, such as one that ssh forwards
  kubectl berth ui --port 8080`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			to, err := c.clients()
			if err != nil {
				return err
			}
			var latest atomic.Pointer[cluster.State]
			server, err := ui.Listen(port, func(ctx context.Context, namespace, name string) (*why.Report, error) {
				state := latest.Load()
				if state == nil {
					return nil, errors.New("the cluster is not read yet")
				}
				return why.Of(state, namespace, name, podsOf(ctx, to, namespace)), nil
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(c.Out, "%s\n", server.URL())
			fmt.Fprintln(
				c.ErrOut,
				"open this URL in a browser; keep it to yourself: it shows what you may see (ctrl-c ends)",
			)
			group, ctx := errgroup.WithContext(cmd.Context())
			group.Go(func() error { return server.Serve(ctx) })
			group.Go(func() error {
				return c.live(ctx, to, func(s *cluster.State, f dashboard.Frame) error {
					latest.Store(s)
					return server.Show(f)
				})
			})
			return group.Wait()
		},
	}
	cmd.Flags().IntVar(&port, "port", 0, "port of the page; 0: any that is free")
	return cmd
}

// gather is how long changes are gathered before a live view shows them.
const gather = 50 * time.Millisecond

// readWithin bounds how long a look at the cluster takes.
const readWithin = 30 * time.Second

// live calls show with what a cluster looks like at first, and after each change, until the context
// ends. While the cluster cannot be read, it shows the last Frame as stale.
func (c *common) live(
	ctx context.Context, to *cluster.Clients, show func(*cluster.State, dashboard.Frame) error,
) error {
	frame := dashboard.Frame{Title: c.titleOf(to)}
	var state *cluster.State
	return follow.Changes(ctx, to, gather, func() error {
		reading, cancel := context.WithTimeout(ctx, readWithin)
		defer cancel()
		read, err := cluster.Read(reading, to, c.namespace)
		if err == nil && state != nil {
			err = read.Failed()
		}
		switch {
		case err != nil && (state == nil || ctx.Err() != nil):
			return err
		case err != nil:
			frame.Stale = err.Error()
		default:
			state = read
			frame = frame.Next(
				dashboard.Of(state, func(namespace string) why.Pods { return podsOf(ctx, to, namespace) }),
			)
		}
		if shown := show(state, frame); shown != nil || err == nil {
			return shown
		}
		return follow.ErrAgain
	})
}

// titleOf names what is shown: the context of the kubeconfig, or else the server.
func (c *common) titleOf(to *cluster.Clients) string {
	raw, err := c.config.ToRawKubeConfigLoader().RawConfig()
	if err != nil {
		return to.Config.Host
	}
	return cmp.Or(*c.config.Context, raw.CurrentContext, to.Config.Host)
}
