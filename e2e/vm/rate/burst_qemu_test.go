//go:build qemu

package rate_test

// burst is how many frames are sent at once: fewer than a veth queues, since an emulated processor
// may not take them out while they come.
const burst = 128
