package config

import "strconv"

// LongestQuote is how many bytes of a text that a tenant wrote are put into a message.
const LongestQuote = 64

// Quote returns text that a tenant wrote in a form that conditions and events may have: quoted, on
// one line, and not longer than LongestQuote and what quoting adds.
func Quote(text string) string {
	if len(text) <= LongestQuote {
		return strconv.Quote(text)
	}
	return strconv.Quote(text[:LongestQuote]) + "…"
}
