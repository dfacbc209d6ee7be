// Package condition writes conditions into the statuses of objects, and has the few functions that
// put lists into their messages.
//
// Begin with Condition and Apply.
package condition
