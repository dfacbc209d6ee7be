package main

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/berth-lb/berth/internal/steerquery"
)

// routeCommand is what kubectl berth why --client runs in a speaker's pod.
func routeCommand() *cobra.Command {
	var service, client, folder string
	var q steerquery.Query
	c := &cobra.Command{
		Use:   "route",
		Short: "Print where this node steers a client's packets, as JSON: kubectl berth why --client runs it",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if q.Service, err = netip.ParseAddrPort(service); err != nil {
				return fmt.Errorf("--service: %w", err)
			}
			if q.Client, err = netip.ParseAddrPort(client); err != nil {
				return fmt.Errorf("--client: %w", err)
			}
			answer, err := steerquery.Ask(c.Context(), folder, q)
			if err != nil {
				return err
			}
			return json.NewEncoder(c.OutOrStdout()).Encode(answer)
		},
	}
	c.Flags().StringVar(&service, "service", "", "address:port of the Service")
	c.Flags().StringVar(&client, "client", "", "address:port of the client")
	c.Flags().StringVar(&q.Protocol, "protocol", "TCP", "TCP, UDP or SCTP")
	c.Flags().StringVar(&folder, "folder", "/run/berth", "where the processes have their sockets")
	return c
}
