// Testsum makes the output of `go test -json` readable, in two steps of `make test`.
//
//	go test -json ./... | testsum -save out/test/race.json
//
// prints one line a package as it ends, the full text of every failed test, and the reason of every skipped one, and
// keeps the events in a file.
//
//	testsum out/test/*.json
//
// prints the slowest tests of all those files, what failed, and, as its last line, the counts. Its status is 1 if
// anything failed, if nothing ran, or, where CI=true, if a test was skipped because an oracle was missing.
//
// Tests and subtests are counted alike, and once a run: a test that runs with and without the race detector
// counts twice.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
)

func main() {
	save := flag.String("save", "", "read events from stdin, print them as they come and save them to this file")
	slowest := flag.Int("slowest", 10, "how many of the slowest tests to print")
	flag.Parse()
	var err error
	ok := true
	if *save != "" {
		err = follow(os.Stdin, os.Stdout, *save)
	} else {
		ci, _ := strconv.ParseBool(os.Getenv("CI"))
		ok, err = summarise(os.Stdout, flag.Args(), *slowest, ci)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
		os.Exit(1)
	}
	if !ok {
		os.Exit(1)
	}
}

// follow prints the events of in and copies them to the file.
func follow(in io.Reader, out io.Writer, file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	r := newResults(out)
	if err := r.read(io.TeeReader(in, f)); err != nil {
		_ = f.Close() // the error that matters is the first
		return err
	}
	r.finish()
	return f.Close()
}

// summarise reads saved events and prints the final account. ok is the verdict.
func summarise(out io.Writer, files []string, slowest int, ci bool) (ok bool, err error) {
	var all []result
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return false, err
		}
		r := newResults(io.Discard)
		err = r.read(f)
		_ = f.Close() // only read
		if err != nil {
			return false, fmt.Errorf("%s: %w", name, err)
		}
		r.finish()
		all = append(all, r.ended...)
	}
	return report(out, all, slowest, ci), nil
}
