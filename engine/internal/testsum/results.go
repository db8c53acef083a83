package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// event is one line of `go test -json` (go doc test2json, go help buildjson).
type event struct {
	Action     string
	Package    string
	ImportPath string // of build events
	Test       string // empty for the package as a whole
	Elapsed    float64
	Output     string
}

// name identifies a test, or with an empty test its package.
type name struct{ pkg, test string }

func (n name) String() string {
	if n.test == "" {
		return n.pkg
	}
	return n.pkg + " " + n.test
}

// result is how one test ended.
type result struct {
	name
	action  string // "pass", "fail" or "skip"
	seconds float64
	output  string // of those that did not pass
}

// results follows the events of one run of `go test -json`.
type results struct {
	out     io.Writer
	output  map[name]*strings.Builder
	running map[name]bool
	failed  map[string]int // by package
	ended   []result
}

func newResults(out io.Writer) *results {
	return &results{
		out:     out,
		output:  make(map[name]*strings.Builder),
		running: make(map[name]bool),
		failed:  make(map[string]int),
	}
}

// read takes events until the end of in. Lines that are none are printed as they are.
func (r *results) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			var e event
			if json.Unmarshal([]byte(line), &e) == nil && e.Action != "" {
				r.take(e)
			} else {
				fmt.Fprint(r.out, line)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *results) take(e event) {
	n := name{e.Package, e.Test}
	switch e.Action {
	case "start", "run":
		r.running[n] = true
	case "output":
		b := r.output[n]
		if b == nil {
			b = new(strings.Builder)
			r.output[n] = b
		}
		b.WriteString(e.Output)
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "pass", "fail", "skip":
		r.end(n, e.Action, e.Elapsed)
	}
}

// end accounts for a test or a package.
func (r *results) end(n name, action string, seconds float64) {
	text := ""
	if b := r.output[n]; b != nil && action != "pass" {
		text = b.String()
	}
	delete(r.output, n)
	delete(r.running, n)
	if n.test == "" {
		r.endPackage(n.pkg, action, seconds, text)
		return
	}
	r.ended = append(r.ended, result{n, action, seconds, text})
	switch action {
	case "fail":
		r.failed[n.pkg]++
		fmt.Fprintf(r.out, "FAIL    %v (%.2fs)\n%s", n, seconds, indent(text))
	case "skip":
		fmt.Fprintf(r.out, "skipped %v\n%s", n, indent(text))
	}
}

// endPackage ends what a panic or a timeout left without an end, and counts a package that failed without a failed
// test (it did not compile, its TestMain failed, it exited) as one failure.
func (r *results) endPackage(pkg, action string, seconds float64, text string) {
	// Subtests before their parents, as in an ordinary run.
	left := slices.SortedFunc(maps.Keys(r.running), func(a, b name) int { return strings.Compare(b.test, a.test) })
	for _, n := range left {
		if n.pkg == pkg && n.test != "" {
			r.take(event{Action: "output", Package: pkg, Test: n.test, Output: "(did not end)\n"})
			r.end(n, "fail", 0)
		}
	}
	word := map[string]string{"pass": "ok     ", "fail": "FAIL   ", "skip": "no test"}[action]
	fmt.Fprintf(r.out, "%s %s (%.1fs)\n", word, pkg, seconds)
	if action != "fail" {
		return
	}
	fmt.Fprint(r.out, indent(text))
	if r.failed[pkg] == 0 {
		r.ended = append(r.ended, result{name{pkg, ""}, "fail", seconds, text})
	}
}

// finish ends the packages whose end was never reported: the go command was killed.
func (r *results) finish() {
	open := make(map[string]bool)
	for n := range r.running {
		open[n.pkg] = true
	}
	for _, pkg := range slices.Sorted(maps.Keys(open)) {
		delete(r.running, name{pkg, ""})
		r.endPackage(pkg, "fail", 0, "(the package did not end)\n")
	}
}

func indent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("        " + strings.TrimSuffix(line, "\n") + "\n")
	}
	return b.String()
}
