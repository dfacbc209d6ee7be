// Package lines has two processes on one node talk to each other: each line is one JSON value.
package lines

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// writeAtMost is how long the other side may leave what it is told unread.
	writeAtMost = 10 * time.Second
	// partWithin is how long the other side may take to end the conversation after a farewell, unless
	// the talk says otherwise.
	partWithin = time.Second
)

// ErrEnded says that the other side has ended the conversation.
var ErrEnded = errors.New("it ended")

// Talk is one side of a conversation. Next and Hear must not be nil.
type Talk[Out, In any] struct {
	// Wake is ready when Next may have something to say.
	Wake <-chan struct{}
	// Next returns what to say next; false: nothing for now.
	Next func() (Out, bool)
	// Hear takes what the other side said. An error ends the conversation.
	Hear func(In) error
	// Farewell is said when the context ends, after all that Next has. The other side then ends the
	// conversation. Nil: this side ends it then.
	Farewell *Out
	// PartWithin bounds the wait for that; 0: a second.
	PartWithin time.Duration
}

// Over talks over a connection until the context or the connection ends, and closes it. It returns
// nil if the context ended first, else ErrEnded or what went wrong.
func (t Talk[Out, In]) Over(ctx context.Context, conn net.Conn) error {
	defer func() { _ = conn.Close() }()
	group, life := errgroup.WithContext(context.WithoutCancel(ctx))
	stop := context.AfterFunc(life, func() { _ = conn.Close() })
	defer stop()
	group.Go(func() error { return t.listen(conn) })
	group.Go(func() error { return t.speak(ctx, life, conn) })
	err := group.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// First hears the first word of the other side, which may take as long as within, and returns it
// with the connection as it goes on. If it does not come the connection is closed.
func First[In any](conn net.Conn, within time.Duration) (said In, rest net.Conn, err error) {
	_ = conn.SetReadDeadline(time.Now().Add(within))
	in := json.NewDecoder(conn)
	if err := in.Decode(&said); err != nil {
		_ = conn.Close()
		return said, nil, fmt.Errorf("listen: %w", err)
	}
	_ = conn.SetReadDeadline(time.Time{})
	return said, resumed{conn, io.MultiReader(in.Buffered(), conn)}, nil
}

// resumed is a connection that was read further than it was used.
type resumed struct {
	net.Conn
	from io.Reader
}

func (r resumed) Read(b []byte) (int, error) { return r.from.Read(b) }

// errParted ends a conversation from this side.
var errParted = errors.New("parted")

func (t Talk[Out, In]) listen(conn net.Conn) error {
	in := json.NewDecoder(conn)
	for {
		var said In
		if err := in.Decode(&said); errors.Is(err, io.EOF) {
			return ErrEnded
		} else if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		if err := t.Hear(said); err != nil {
			return err
		}
	}
}

func (t Talk[Out, In]) speak(ctx, life context.Context, conn net.Conn) error {
	out := json.NewEncoder(conn)
	say := func(words Out) error {
		_ = conn.SetWriteDeadline(time.Now().Add(writeAtMost)) // a pipe and a socket can
		if err := out.Encode(words); err != nil {
			return fmt.Errorf("speak: %w", err)
		}
		return nil
	}
	for {
		for words, more := t.Next(); more; words, more = t.Next() {
			if err := say(words); err != nil {
				return err
			}
		}
		select {
		case <-life.Done():
			return nil
		case <-t.Wake:
			continue
		case <-ctx.Done():
		}
		for words, more := t.Next(); more; words, more = t.Next() {
			if err := say(words); err != nil {
				return err
			}
		}
		if t.Farewell == nil {
			return errParted
		}
		within := t.PartWithin
		if within == 0 {
			within = partWithin
		}
		_ = conn.SetReadDeadline(time.Now().Add(within))
		return say(*t.Farewell)
	}
}

// Dial returns how to connect to a socket.
func Dial(path string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "unix", path) }
}
