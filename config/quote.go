package config

import "strconv"

// LongestQuote is how many bytes of what a tenant wrote come into a message.
const LongestQuote = 64

// Quote returns text that a tenant wrote as it may come into a condition or an event: quoted, on one line, and no longer
// than LongestQuote and what quoting adds.
func Quote(text string) string {
	if len(text) <= LongestQuote {
		return strconv.Quote(text)
	}
	return strconv.Quote(text[:LongestQuote]) + "…"
}
