package bgp

import (
	"testing"

	"go.uber.org/goleak"
)

// verify runs the tests and looks for goroutines they leave behind.
func verify(m *testing.M) {
	goleak.VerifyTestMain(m,
		// GoBGP v4.8.0 closes a session's queue and then reads it only while something is ready at once, so
		// the queue's goroutine can outlive the session, blocked on its last element.
		goleak.IgnoreTopFunction("github.com/eapache/channels.(*InfiniteChannel).infiniteBuffer"),
	)
}
