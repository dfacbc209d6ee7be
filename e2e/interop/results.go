//go:build linux

package interop

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
)

// ResultsFile is beside the scripts; tools/interop makes the page of it.
const ResultsFile = "results.json"

// Results are what all cells came to.
type Results struct {
	Berth  string `json:"berth"`
	Tested string `json:"tested"` // day
	// Daemons has the versions of the packages.
	Daemons map[string]string `json:"daemons"`
	Scripts []Result          `json:"scripts"`
}

// Result is what a script came to.
type Result struct {
	Name   string   `json:"name"`
	Title  string   `json:"title"`
	Fields []string `json:"fields"`
	// Digest of the script that ran: what another one says was not tried.
	Digest string `json:"digest"`
	// Cells by daemon.
	Cells map[string]Outcome `json:"cells"`
}

// Outcome of a cell.
type Outcome struct {
	// Works, unless it is not supported: then Reason says why.
	Works  bool   `json:"works"`
	Reason string `json:"reason,omitempty"`
	// Refused: the daemon was seen to refuse the configuration for it.
	Refused string `json:"refused,omitempty"`
	// Seen: that it is not supported was seen here, and not only read.
	Seen bool `json:"seen,omitempty"`
}

// Digest names the contents of a script.
func Digest(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read script: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8]), nil
}

// Write writes the results to a file.
func (r Results) Write(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
