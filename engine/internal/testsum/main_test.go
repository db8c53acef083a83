package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/engine/internal/oracle"
)

func TestOraclePrefix(t *testing.T) {
	if oracleMissing != oracle.SkipPrefix {
		t.Errorf("%q is not %q", oracleMissing, oracle.SkipPrefix)
	}
}

// module is a module whose tests end in every way there is.
var module = map[string]string{
	"go.mod":           "module m\n\ngo 1.24\n",
	"good/a_test.go":   "package a\nimport \"testing\"\nfunc TestA(t *testing.T) { t.Run(\"s\", func(t *testing.T) { t.Log(\"quiet\") }) }\n",
	"bad/a_test.go":    "package a\nimport \"testing\"\nfunc TestA(t *testing.T) { t.Run(\"s\", func(t *testing.T) { t.Error(\"loud <&>\") }) }\nfunc TestB(t *testing.T) {}\n",
	"skip/a_test.go":   "package a\nimport \"testing\"\nfunc TestA(t *testing.T) { t.Skip(\"not today\") }\n",
	"oracle/a_test.go": "package a\nimport \"testing\"\nfunc TestA(t *testing.T) { t.Skip(\"" + oracle.SkipPrefix + "no btrfs\") }\n",
	"broken/a_test.go": "package a\nimport \"testing\"\nfunc TestA(t *testing.T) { undefinedName() }\n",
	"exit/a_test.go":   "package a\nimport (\"os\"; \"testing\")\nfunc TestMain(m *testing.M) { println(\"no tests for you\"); os.Exit(3) }\nfunc TestA(t *testing.T) {}\n",
	"panic/a_test.go":  "package a\nimport \"testing\"\nfunc TestA(t *testing.T) { t.Run(\"s\", func(t *testing.T) { t.Parallel(); panic(\"ouch\") }) }\n",
}

// run executes the tests of the given packages of the module, as `make test` does, and returns what both steps print.
func run(t *testing.T, ci bool, packages ...string) (live, summary string, ok bool) {
	t.Helper()
	dir := t.TempDir()
	for file, text := range module {
		file = filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", append([]string{"test", "-vet=off", "-json"}, packages...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	events, _ := cmd.Output() // it is meant to fail
	var first, second bytes.Buffer
	saved := filepath.Join(dir, "events.json")
	if err := follow(bytes.NewReader(events), &first, saved); err != nil {
		t.Fatal(err)
	}
	ok, err := summarise(&second, []string{saved}, 10, ci)
	if err != nil {
		t.Fatal(err)
	}
	return first.String(), second.String(), ok
}

func TestRuns(t *testing.T) {
	for _, c := range []struct {
		name     string
		packages []string
		ci, ok   bool
		counts   string
		live     []string
		summary  []string
	}{
		{"good", []string{"./good"}, true, true, "2 passed, 0 failed, 0 skipped", []string{"ok      m/good"}, []string{"m/good TestA"}},
		{"bad", []string{"./good", "./bad"}, false, false, "3 passed, 2 failed, 0 skipped", []string{"loud <&>", "FAIL    m/bad TestA/s"}, []string{"  m/bad TestA/s\n"}},
		{"skip", []string{"./good", "./skip"}, true, true, "2 passed, 0 failed, 1 skipped", []string{"not today"}, nil},
		{"oracle", []string{"./good", "./oracle"}, false, true, "2 passed, 0 failed, 1 skipped", []string{"no btrfs"}, []string{"1 tests were skipped"}},
		{"oracle in CI", []string{"./good", "./oracle"}, true, false, "2 passed, 0 failed, 1 skipped", nil, []string{"  m/oracle TestA\n"}},
		{"broken", []string{"./good", "./broken"}, false, false, "2 passed, 1 failed, 0 skipped", []string{"undefinedName", "FAIL    m/broken"}, []string{"  m/broken\n"}},
		{"exit", []string{"./exit"}, false, false, "0 passed, 1 failed, 0 skipped", []string{"no tests for you"}, []string{"  m/exit\n"}},
		{"panic", []string{"./panic"}, false, false, "0 passed, 2 failed, 0 skipped", []string{"panic: ouch"}, []string{"  m/panic TestA\n", "  m/panic TestA/s\n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			live, summary, ok := run(t, c.ci, c.packages...)
			if last := summary[strings.LastIndexByte(strings.TrimSpace(summary), '\n')+1:]; strings.TrimSpace(last) != c.counts || ok != c.ok {
				t.Errorf("ok=%v, last line %q; want %v, %q", ok, last, c.ok, c.counts)
			}
			for _, want := range c.live {
				if !strings.Contains(live, want) {
					t.Errorf("missing from the live output: %q", want)
				}
			}
			for _, want := range c.summary {
				if !strings.Contains(summary, want) {
					t.Errorf("missing from the summary: %q", want)
				}
			}
			if strings.Contains(live, "quiet") {
				t.Error("the output of a passed test is shown")
			}
			if t.Failed() {
				t.Logf("live:\n%s\nsummary:\n%s", live, summary)
			}
		})
	}
}

// TestKilled cuts the events off in the middle, as when the go command is killed.
func TestKilled(t *testing.T) {
	const events = `{"Action":"start","Package":"m/a"}
{"Action":"run","Package":"m/a","Test":"TestA"}
{"Action":"output","Package":"m/a","Test":"TestA","Output":"far along\n"}
`
	var live bytes.Buffer
	saved := filepath.Join(t.TempDir(), "events.json")
	if err := follow(strings.NewReader(events), &live, saved); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(live.String(), "far along") {
		t.Errorf("the text of the unfinished test is lost: %q", live.String())
	}
	var summary bytes.Buffer
	ok, err := summarise(&summary, []string{saved}, 10, false)
	if ok || err != nil || !strings.HasSuffix(summary.String(), "0 passed, 1 failed, 0 skipped\n") {
		t.Errorf("ok=%v, %v: %q", ok, err, summary.String())
	}
}

func TestNothingRan(t *testing.T) {
	var out bytes.Buffer
	if report(&out, nil, 10, false) {
		t.Errorf("a run without a single test is good: %q", out.String())
	}
}
