package steerquery

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"github.com/berth-lb/berth/internal/lines"
)

const (
	// socket is the name of the socket in the folder of the pod's sockets.
	socket = "speaker-steering.sock"
	// mostAsked and mostAnswered bound what is read, in bytes.
	mostAsked, mostAnswered = 1 << 10, 1 << 16
)

// reply is what is written to who asked: an answer, or what is wrong with the query.
type reply struct {
	Answer *Answer `json:"answer,omitempty"`
	Error  string  `json:"error,omitempty"`
}

// Serve answers who connects, one at a time and one query each, until ctx ends. It closes the
// listener.
func Serve(ctx context.Context, at net.Listener, logger *slog.Logger, answer func(Query) Answer) {
	lines.Serve(ctx, at, logger, "to ask where packets are steered", func(conn net.Conn) error {
		return serve(conn, answer)
	})
}

func serve(conn net.Conn, answer func(Query) Answer) error {
	var q Query
	in := json.NewDecoder(io.LimitReader(conn, mostAsked))
	in.DisallowUnknownFields()
	err := in.Decode(&q)
	if err == nil {
		err = q.Check()
	}
	if err != nil {
		return json.NewEncoder(conn).Encode(reply{Error: err.Error()})
	}
	a := answer(q)
	return json.NewEncoder(conn).Encode(reply{Answer: &a})
}

// Ask asks the speaker that has its socket in the folder.
func Ask(ctx context.Context, folder string, q Query) (Answer, error) {
	if err := q.Check(); err != nil {
		return Answer{}, err
	}
	conn, err := lines.Dial(filepath.Join(folder, socket))(ctx)
	if err != nil {
		return Answer{}, fmt.Errorf("the speaker cannot be asked where it steers packets: %w", err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(lines.Within)); err != nil {
		return Answer{}, err
	}
	if err := json.NewEncoder(conn).Encode(q); err != nil {
		return Answer{}, fmt.Errorf("ask the speaker where it steers packets: %w", err)
	}
	var r reply
	if err := json.NewDecoder(io.LimitReader(conn, mostAnswered)).Decode(&r); err != nil {
		return Answer{}, fmt.Errorf("read where the speaker steers packets: %w", err)
	}
	if r.Answer == nil {
		return Answer{}, fmt.Errorf("the speaker does not say where it steers packets: %s", r.Error)
	}
	return *r.Answer, nil
}
