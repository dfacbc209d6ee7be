package bundle

import (
	"iter"
	"slices"
	"strings"
)

// marks are in each line, once in small letters, in which something secret begins. To look for them
// takes less time than to look for what is secret.
var marks = []string{
	"pass", "pwd", "secret", "token", "cred", "key", "auth", "dsn", "psk", "jwt", "cookie", "bearer", "curl", "sig", "://",
	"eyj", "ls0t", "h4si", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "xox", "k_live_", "k_test_",
	"aiza", "akia", "asia",
}

func isMarked(line string) bool {
	line = strings.ToLower(line)
	return slices.ContainsFunc(marks, func(mark string) bool { return strings.Contains(line, mark) })
}

// nextMarked returns where the next lines with marks begin, and where the line after them ends: it
// may have the value for a name.
func nextMarked(text string, at int) (start, end int) {
	start = at
	for line := range strings.Lines(text[at:]) {
		if isMarked(line) {
			break
		}
		start += len(line)
	}
	end = start
	for line := range strings.Lines(text[start:]) {
		end += len(line)
		if !isMarked(line) {
			break
		}
	}
	return start, end
}

// parts cuts a text into lines in which something may be secret, and others. Those that may belong
// to a value that begins before them are with it.
func parts(text string) iter.Seq2[string, bool] {
	return func(yield func(part string, suspicious bool) bool) {
		start, at := 0, 0      // of the part, and of the line
		since := mostLines + 1 // lines since the last one with a mark
		for line := range strings.Lines(text) {
			suspicious := since <= mostLines
			marked := isMarked(line)
			switch {
			case marked:
				since = 0
			case since < mostLines || !suspicious:
				since++
			case !goesOnFrom(line):
				since = mostLines + 1
			}
			if now := since <= mostLines; now != suspicious {
				if start < at && !yield(text[start:at], suspicious) {
					return
				}
				start = at
			}
			at += len(line)
		}
		if start < at {
			yield(text[start:], since <= mostLines)
		}
	}
}

// goesOnFrom reports whether a line may belong to a value that began more lines before than one in
// quotes has.
func goesOnFrom(line string) bool {
	_, line = cutStamp(line)
	return line == "" || line != strings.TrimLeft(line, " \t\r\n-]}"+breaks)
}
