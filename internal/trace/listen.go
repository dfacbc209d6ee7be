//go:build unix

package trace

import (
	"context"
	"net"
	"path/filepath"

	"github.com/berth-lb/berth/internal/lines"
)

// ListenBeside listens for who reads the Log of a process, in the folder of another socket.
func ListenBeside(ctx context.Context, socket, process string) (net.Listener, error) {
	return lines.Listen(ctx, filepath.Join(filepath.Dir(socket), process+suffix))
}
