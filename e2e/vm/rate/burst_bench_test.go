//go:build bench && !qemu

package rate_test

// burst is how many frames are sent at once.
const burst = frames
