package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"imgtool/disk"
	"imgtool/engine/check"
	"imgtool/engine/fserr"
)

const checkLong = `Read the whole file system and say what is wrong with it. Nothing is written.

Each finding is one line: its severity, its id, where it is, and what is wrong; a summary
says what each id means. Errors are damage; warnings are oddities that the kernel mends by
itself. Exit status: 0 no damage, 3 damage, 1 the check could not be made.`

func (a *app) checkCmd() *cobra.Command {
	var o check.Options
	var asJSON, lines bool
	cmd := &cobra.Command{
		Use: "check [--check-data-csum] [-s N] [-b] [-p] [--json] IMAGE", Short: "look for damage", Long: checkLong, Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.Copy < 0 || o.Copy > 2 {
				return usagef(cmd, "--super %d: there are superblock copies 0, 1 and 2", o.Copy)
			}
			rep, err := a.runCheck(cmd.Context(), args[0], o, lines)
			if err != nil {
				err = &imageError{args[0], err}
				if !asJSON || !errors.Is(err, fserr.ErrCorrupt) {
					return err
				}
				return cmp.Or(a.printJSON(check.Unopened(err)), err) // who reads JSON finds it there, too
			}
			if asJSON {
				err = a.printJSON(rep)
			} else {
				err = a.printReport(args[0], rep)
			}
			if err == nil && !rep.Clean() {
				err = &statusError{exitDamaged, fmt.Errorf("%s: the file system is damaged", args[0])}
			}
			return err
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVar(&o.DataCsum, "check-data-csum", false, "verify the checksums of all file data, in all copies")
	f.IntVarP(&o.Copy, "super", "s", 0, "use superblock copy `N`: 1 or 2; 0 takes the newest good one")
	f.BoolVarP(&o.Backup, "backup", "b", false, "use the newest root backup that can be read")
	f.BoolVarP(&lines, "progress", "p", false, "print progress as lines where there is no terminal")
	f.BoolVar(&asJSON, "json", false, "print the report as JSON")
	return cmd
}

func (a *app) printJSON(rep *check.Report) error {
	enc := json.NewEncoder(a.out)
	enc.SetIndent("", "  ")
	return enc.Encode(rep)
}

// runCheck opens the devices and checks what is on them.
func (a *app) runCheck(ctx context.Context, image string, o check.Options, lines bool) (*check.Report, error) {
	direct := a.direct
	if direct == disk.DirectAuto {
		direct = disk.DirectOff // every block is read once, so let the host read ahead
	}
	var devs []disk.Device
	defer func() {
		for _, d := range devs {
			_ = d.Close() // nothing was written
		}
	}()
	for _, path := range append([]string{image}, a.devices...) {
		d, err := disk.Open(path, disk.Options{ReadOnly: true, ForceReadonly: a.forceReadonly, Direct: direct, Warn: a.warn})
		if err != nil {
			return nil, err
		}
		devs = append(devs, d)
	}
	p := checkProgress{a: a, lines: lines && !a.quiet && !isTerminal(a.errOut)}
	o.Progress = p.update
	defer p.stop()
	return check.Image(ctx, devs, o)
}

// checkProgress shows the steps of a check, each as a bar of its own once its size is known.
type checkProgress struct {
	a     *app
	lines bool

	mu      sync.Mutex // updates come from many goroutines
	step    string
	bar     *progress
	percent uint64
}

func (p *checkProgress) update(now check.Progress) {
	if now.Total == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.step != now.Step {
		p.bar.stop()
		p.step, p.bar, p.percent = now.Step, p.a.progress("checking "+now.Step, now.Total), 0
	}
	p.bar.update(now.Done)
	if at := min(100, 100*now.Done/now.Total); p.lines && at >= p.percent+10 {
		p.percent = at
		fmt.Fprintf(p.a.errOut, "imgtool: checking %s: %d%% of %s\n", now.Step, at, humanize.IBytes(now.Total))
	}
}

func (p *checkProgress) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bar.stop()
}

// printReport prints the findings and the summary.
func (a *app) printReport(image string, rep *check.Report) error {
	w := bufio.NewWriter(a.out)
	for i := range rep.Findings {
		fmt.Fprintln(w, rep.Findings[i].String())
	}
	if len(rep.Counts) > 0 {
		fmt.Fprintln(w)
	}
	for _, k := range rep.Counts {
		fmt.Fprintf(w, "%d x %s: %s\n", k.N, k.ID, k.Means)
	}
	if !a.quiet {
		summary(w, image, rep)
	}
	return errors.Join(w.Flush())
}

func summary(w io.Writer, image string, rep *check.Report) {
	s := rep.Stats
	fmt.Fprintf(w, "%s: %d trees, %d tree blocks, %d extents, %s used\n", image, s.Trees, s.Blocks, s.Extents, humanize.IBytes(s.BytesUsed))
	if s.DataBytes > 0 {
		fmt.Fprintf(w, "%s: %s of file data verified\n", image, humanize.IBytes(s.DataBytes))
	}
	if rep.Clean() {
		fmt.Fprintf(w, "%s: no damage found\n", image)
	}
}
