package l2

import "strings"

// fault is something that can fail on a segment on its own.
type fault uint8

const (
	faultSocket fault = iota
	faultJoin
	faultHello
	faultAnnounce
	faultDrain
	faultCount
)

// faults are the texts of the failures that stand.
type faults [faultCount]string

// String joins the failures that stand; empty: none.
func (f *faults) String() string {
	var texts []string
	for _, text := range f {
		if text != "" {
			texts = append(texts, text)
		}
	}
	return strings.Join(texts, "; ")
}
