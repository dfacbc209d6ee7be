package bgp

import (
	"flag"
	"testing"

	"go.uber.org/goleak"
)

// verify runs the tests and looks for goroutines they leave behind.
func verify(m *testing.M) {
	// What runs at once waits rather than computes; the command line comes later and wins.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m,
		// GoBGP v4.8.0 closes a session's queue and then reads it only while something is ready at once,
		// so the queue's goroutine can outlive the session, blocked on its last element.
		goleak.IgnoreTopFunction("github.com/eapache/channels.(*InfiniteChannel).infiniteBuffer"),
	)
}
