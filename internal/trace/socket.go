package trace

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"github.com/berth-lb/berth/internal/lines"
)

// suffix is of the names of sockets.
const suffix = "-trace.sock"

// Serve answers who connects, one at a time, until ctx ends. It closes the listener.
func (l *Log) Serve(ctx context.Context, at net.Listener, logger *slog.Logger) {
	lines.Serve(ctx, at, logger, "to read the trace", l.answer)
}

func (l *Log) answer(conn net.Conn) error {
	var q Query
	if err := json.NewDecoder(io.LimitReader(conn, 1<<16)).Decode(&q); err != nil {
		return err
	}
	out := bufio.NewWriter(conn)
	e := json.NewEncoder(out)
	for _, entry := range l.Read(q) {
		if err := e.Encode(entry); err != nil {
			return err
		}
	}
	return out.Flush()
}

// Ask reads the Logs of all processes that have a socket in the folder, oldest entry first.
func Ask(ctx context.Context, folder string, q Query) ([]Entry, error) {
	sockets, err := filepath.Glob(filepath.Join(folder, "*"+suffix))
	if err != nil {
		return nil, err
	}
	if len(sockets) == 0 {
		return nil, fmt.Errorf("no process serves a trace in %s", folder)
	}
	var all []Entry
	var failed []error
	for _, socket := range sockets {
		entries, err := ask(ctx, socket, q)
		if all = append(all, entries...); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", socket, err))
		}
	}
	Sort(all)
	return all, errors.Join(failed...)
}

func ask(ctx context.Context, socket string, q Query) (all []Entry, err error) {
	conn, err := lines.Dial(socket)(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(lines.Within)); err != nil {
		return nil, err
	}
	if err := json.NewEncoder(conn).Encode(q); err != nil {
		return nil, err
	}
	return Decode(conn)
}

// Decode reads entries, each of which is a JSON value.
func Decode(from io.Reader) (all []Entry, err error) {
	for in := json.NewDecoder(from); ; {
		var e Entry
		switch err := in.Decode(&e); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return all, err
		}
		all = append(all, e)
	}
}
