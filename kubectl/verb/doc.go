// Package verb decides what the verbs of kubectl berth change, and what is still to come of it. It
// does no I/O.
package verb
