package election

// Capabilities are what a node is able to forward by, a bit each. The caller gives the bits their meaning, which must
// be the same on all nodes: docs/design/l2-protocol.md lists them. A value is part of the hello's format.
type Capabilities uint16

// Has reports whether all of those needed are among them.
func (c Capabilities) Has(needed Capabilities) bool { return c&needed == needed }
