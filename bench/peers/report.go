package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// bench is one run of the program.
type bench struct {
	config
	n       int    // images made so far
	checked string // the image of oursCheck and theirsCheck, once it is made

	sent, streamed string // the image that is sent, and a stream of it, once they are made
}

// measure is what one side's run has shown.
type measure struct {
	took   time.Duration
	memory int64   // bytes, largest resident set of a command; 0 where there is none
	flush  float64 // flushes of the device, of our side
}

// image returns the path of an image that does not exist yet.
func (b *bench) image() string {
	b.n++
	return filepath.Join(b.dir, fmt.Sprintf("%d.img", b.n))
}

// all makes the comparisons and prints a line for each.
func (b *bench) all(ctx context.Context, chosen []comparison) error {
	fmt.Printf("medians of %d rounds, both sides in each; ratio is their time / our time, spread is least to greatest\n\n", b.rounds)
	fmt.Printf("%-18s %12s %12s  %-11s %7s %14s %3s  %s\n", "", "theirs", "ours", "", "ratio", "spread", "n", "")
	for _, c := range chosen {
		if c.needRoot && os.Geteuid() != 0 {
			fmt.Printf("%-18s left out: the kernel's side needs root\n", c.name)
			continue
		}
		if err := b.compare(ctx, c); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

func (b *bench) compare(ctx context.Context, c comparison) error {
	var ours, theirs []measure
	for round := range b.rounds {
		sides := []func() error{
			func() error { return take(ctx, b, c.ours, &ours) },
			func() error { return take(ctx, b, c.theirs, &theirs) },
		}
		if round%2 == 1 {
			slices.Reverse(sides)
		}
		for _, side := range sides {
			if err := side(); err != nil {
				return err
			}
		}
	}
	b.print(c, ours, theirs)
	return nil
}

func take(ctx context.Context, b *bench, side func(context.Context, *bench) (measure, error), to *[]measure) error {
	m, err := side(ctx, b)
	if err != nil {
		return err
	}
	*to = append(*to, m)
	return nil
}

func (b *bench) print(c comparison, ours, theirs []measure) {
	var o, t, ratio []float64
	note := ""
	for i := range ours {
		o, t = append(o, ours[i].took.Seconds()), append(t, theirs[i].took.Seconds())
		ratio = append(ratio, theirs[i].took.Seconds()/ours[i].took.Seconds())
	}
	amount := c.amount(&b.config)
	show := func(seconds float64) string {
		if amount == 1 {
			return fmt.Sprintf("%.1f ms", seconds*1e3)
		}
		return fmt.Sprintf("%.0f /s", amount/seconds)
	}
	if m := most(ours); m > 0 {
		note = fmt.Sprintf("memory: theirs %d MiB, ours %d MiB", most(theirs)>>20, m>>20)
	}
	if f := ours[0].flush; f > 0 {
		note = fmt.Sprintf("our flushes: %.2f for each", f/amount)
	}
	slices.Sort(ratio)
	fmt.Printf("%-18s %12s %12s  %-11s %7.2f %14s %3d  %s\n", c.name, show(median(t)), show(median(o)), c.unit, median(ratio),
		fmt.Sprintf("%.2f-%.2f", ratio[0], ratio[len(ratio)-1]), len(ratio), note)
}

// most is the largest resident set of all rounds.
func most(ms []measure) (n int64) {
	for _, m := range ms {
		n = max(n, m.memory)
	}
	return n
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}
