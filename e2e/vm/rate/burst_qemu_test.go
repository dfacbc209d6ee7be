//go:build qemu

package rate_test

// frames are sent to each place of a way, burst of them at once: fewer than a veth queues, since an
// emulated processor may not take them out while they come.
const (
	frames = 512
	burst  = 128
)
