package lines

import (
	"context"
	"log/slog"
	"net"
	"time"
)

// Within bounds a conversation, so that who does not read keeps nobody waiting for long.
const Within = 5 * time.Second

// Serve talks with who connects, one at a time, until ctx ends. It closes the listener. What is
// logged says that the purpose, as in "to read the trace", is not served any more.
func Serve(ctx context.Context, at net.Listener, log *slog.Logger, purpose string, talk func(net.Conn) error) {
	defer context.AfterFunc(ctx, func() { _ = at.Close() })()
	for {
		conn, err := at.Accept()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			log.Warn("nobody can connect any more "+purpose, "error", err)
			_ = at.Close()
			return
		}
		if err = conn.SetDeadline(time.Now().Add(Within)); err == nil {
			err = talk(conn)
		}
		if err != nil {
			log.Debug("who connected "+purpose+" did not get all of it", "error", err)
		}
		_ = conn.Close()
	}
}
