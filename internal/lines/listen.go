//go:build unix

package lines

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"syscall"
)

// Listen listens on a socket that only root can connect to. What a former process left goes.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	former := syscall.Umask(0o177)
	defer syscall.Umask(former)
	return (&net.ListenConfig{}).Listen(ctx, "unix", path)
}
