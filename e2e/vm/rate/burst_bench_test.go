//go:build bench && !qemu

package rate_test

// frames are sent to each place of a way, burst of them at once.
const (
	frames = 1536
	burst  = frames
)
