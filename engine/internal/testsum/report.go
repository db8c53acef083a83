package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
)

// oracleMissing starts the text of a skip for want of an oracle: oracle.SkipPrefix, compared in a test because this
// program is none and may not import test support.
const oracleMissing = "oracle missing: "

// report prints the account of all runs and returns the verdict.
func report(out io.Writer, all []result, slowest int, ci bool) (ok bool) {
	printSlowest(out, all, slowest)
	var passed, skipped int
	var failed, oracles []result
	for _, r := range all {
		switch r.action {
		case "pass":
			passed++
		case "fail":
			failed = append(failed, r)
		case "skip":
			skipped++
			if strings.Contains(r.output, oracleMissing) {
				oracles = append(oracles, r)
			}
		}
	}
	printNames(out, "failed (their text is above):", failed)
	if ci {
		printNames(out, "skipped for want of an oracle, which is a failure in CI:", oracles)
	} else if len(oracles) > 0 {
		fmt.Fprintf(out, "%d tests were skipped because btrfs-progs, the kernel's btrfs or root were missing; in CI they must run\n", len(oracles))
	}
	if len(all) == 0 {
		fmt.Fprintln(out, "no test ran")
	}
	fmt.Fprintf(out, "%d passed, %d failed, %d skipped\n", passed, len(failed), skipped)
	return len(failed) == 0 && len(all) > 0 && (!ci || len(oracles) == 0)
}

// printSlowest lists top-level tests only: the time of a subtest is part of its parent's.
func printSlowest(out io.Writer, all []result, n int) {
	var top []result
	for _, r := range all {
		if r.test != "" && !strings.Contains(r.test, "/") {
			top = append(top, r)
		}
	}
	slices.SortStableFunc(top, func(a, b result) int { return cmp.Compare(b.seconds, a.seconds) })
	if len(top) == 0 || n <= 0 {
		return
	}
	fmt.Fprintln(out, "slowest tests:")
	for _, r := range top[:min(n, len(top))] {
		fmt.Fprintf(out, "%8.2fs  %v\n", r.seconds, r.name)
	}
}

func printNames(out io.Writer, title string, rs []result) {
	if len(rs) == 0 {
		return
	}
	fmt.Fprintln(out, title)
	for _, r := range rs {
		fmt.Fprintf(out, "  %v\n", r.name)
	}
}
