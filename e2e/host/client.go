//go:build linux

package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

// Client talks to the PID 1 of a host from outside it.
type Client struct {
	// PID is the process number of the host's PID 1 on the real machine.
	PID int
}

// Start runs a program in the host. It returns once the program is executed.
func (c Client) Start(ctx context.Context, p Program) error {
	_, err := c.ask(ctx, Request{Start: &p})
	return err
}

// Processes lists the programs that were started in the host, in order, including those that ended.
func (c Client) Processes(ctx context.Context) ([]Process, error) {
	reply, err := c.ask(ctx, Request{})
	return reply.Processes, err
}

func (c Client) ask(ctx context.Context, request Request) (Reply, error) {
	var reply Reply
	// Through /proc the address stays short enough for a Unix socket wherever the work folder is.
	address := fmt.Sprintf("/proc/%d/root%s", c.PID, Socket)
	conn, err := new(net.Dialer).DialContext(ctx, "unix", address)
	if err != nil {
		return reply, fmt.Errorf("talk to PID 1 of the host: %w", err)
	}
	defer conn.Close()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(30 * time.Second)
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return reply, fmt.Errorf("talk to PID 1 of the host: %w", err)
	}
	if err := json.NewEncoder(conn).Encode(request); err != nil {
		return reply, fmt.Errorf("talk to PID 1 of the host: %w", err)
	}
	if err := json.NewDecoder(conn).Decode(&reply); err != nil {
		return reply, fmt.Errorf("talk to PID 1 of the host: %w", err)
	}
	if reply.Error != "" {
		return reply, errors.New(reply.Error)
	}
	return reply, nil
}
