//go:build vm

package ipvs_test

// child runs a driver instead of the tests if the process was started for that. -1: it was not.
func child() int { return -1 }
