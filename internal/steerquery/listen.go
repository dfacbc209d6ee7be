//go:build unix

package steerquery

import (
	"context"
	"net"
	"path/filepath"

	"github.com/berth-lb/berth/internal/lines"
)

// ListenBeside listens for who asks, in the folder of another socket.
func ListenBeside(ctx context.Context, other string) (net.Listener, error) {
	return lines.Listen(ctx, filepath.Join(filepath.Dir(other), socket))
}
