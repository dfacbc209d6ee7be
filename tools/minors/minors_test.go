package main

import "testing"

func TestTable(t *testing.T) {
	got, err := table([]byte(`[
		{"kubernetes": "v1.35.4"},
		{"kubernetes": "v1.36.3", "berth": "v0.1.0", "tested": "2026-01-02", "passed": 7, "failed": []},
		{"kubernetes": "v1.37.2", "berth": "v0.1.0", "tested": "2026-01-03", "passed": 5, "failed": ["TestA", "TestB"]}
	]`))
	const want = `| Kubernetes | tests that passed | that failed | Berth | on |
|---|---|---|---|---|
| v1.37.2 | 5 | TestA, TestB | v0.1.0 | 2026-01-03 |
| v1.36.3 | 7 | none | v0.1.0 | 2026-01-02 |
| v1.35.4 | not tested yet | | | |
`
	if err != nil || got != want {
		t.Errorf("table = %v\n%s\nwant\n%s", err, got, want)
	}
	if _, err := table([]byte(`{}`)); err == nil {
		t.Error("results that are no list were accepted")
	}
}

func TestReplace(t *testing.T) {
	page := "above\n" + begin + "\n| old |\n\n" + end + "below\n"
	got, err := replace(page, "| new |\n")
	if want := "above\n" + begin + "\n| new |\n\n" + end + "below\n"; err != nil || got != want {
		t.Errorf("page = %v\n%q\nwant\n%q", err, got, want)
	}
	if _, err := replace("above\n"+begin+"| old |\nbelow\n", ""); err == nil {
		t.Error("a page without the end of the table was accepted")
	}
}
