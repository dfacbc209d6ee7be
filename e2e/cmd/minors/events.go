//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// event is a line of `go test -json`.
type event struct {
	Action, Test, Output string
}

// read counts the tests that passed, subtests not among them, and notes those that failed. What
// failed tests printed goes to log.
func (r *result) read(events *json.Decoder, log io.Writer) error {
	printed := map[string]*strings.Builder{}
	for {
		var e event
		if err := events.Decode(&e); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read what the tests print: %w", err)
		}
		test, _, sub := strings.Cut(e.Test, "/")
		if printed[test] == nil {
			printed[test] = &strings.Builder{}
		}
		switch {
		case e.Action == "output" && test == "":
			fmt.Fprint(log, e.Output)
		case e.Action == "output":
			printed[test].WriteString(e.Output)
		case e.Action == "pass" && test != "" && !sub:
			r.Passed++
		case e.Action == "fail" && test != "" && !sub:
			r.Failed = append(r.Failed, test)
			fmt.Fprint(log, printed[test])
		}
	}
}
