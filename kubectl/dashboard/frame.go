package dashboard

// Frame is all that is on the screen.
type Frame struct {
	// Title names the cluster.
	Title string `json:"title"`
	*Snapshot
	Timeline Timeline `json:"timeline"`
	// Stale says why the Snapshot may be out of date; empty: it is not.
	Stale string `json:"stale,omitempty"`
}

// Next returns the Frame of a Snapshot that follows.
func (f Frame) Next(s *Snapshot) Frame {
	if f.Snapshot == nil {
		return Frame{Title: f.Title, Snapshot: s, Timeline: Begin(s)}
	}
	return Frame{Title: f.Title, Snapshot: s, Timeline: f.Timeline.Then(f.Snapshot, s)}
}
