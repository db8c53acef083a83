package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"imgtool/disk"
	"imgtool/engine/fserr"
	"imgtool/engine/scrub"
	"imgtool/engine/treecheck"
	"imgtool/engine/volume"
)

// maxFindings is how many findings are printed; the rest is counted.
const maxFindings = 1000

func (a *app) scrubCmd() *cobra.Command {
	var repair bool
	cmd := &cobra.Command{
		Use: "scrub [--repair] IMAGE", Short: "verify all copies of metadata and data", Args: args(1, 1),
		Long: `Compare every copy of every superblock, tree block and data sector with its checksum, and tree
blocks with the pointers that lead to them. With --repair a bad copy is written over from a good
one; without it nothing is changed.

Exit status: 0 nothing is damaged, 3 damage is left, 4 all that was damaged has been repaired.`,
		RunE: func(cmd *cobra.Command, args []string) error { return a.scrub(cmd.Context(), args[0], repair) },
	}
	cmd.Flags().BoolVar(&repair, "repair", false, "repair bad copies from good ones")
	return cmd
}

func (a *app) scrub(ctx context.Context, image string, repair bool) error {
	if repair && a.forceReadonly {
		return errors.New("--force-readonly is for commands that only read: leave out it, or --repair")
	}
	vol, done, err := a.openVolume(ctx, image, !repair)
	if err != nil {
		return &imageError{image, err}
	}
	report, err := a.scrubVolume(ctx, image, vol, repair)
	if e := done(); err == nil {
		err = e
	}
	if err != nil {
		return &imageFault{image, err}
	}
	a.scrubSummary(&report, repair)
	bad, repaired := report.Errors()
	switch {
	case bad == 0:
		return nil
	case bad == repaired:
		return &statusError{exitRepaired, fmt.Errorf("%s: all %d errors have been repaired", image, bad)}
	case repair:
		return &statusError{exitDamaged, fmt.Errorf("%s: %d errors are left, %d have been repaired; take what they hold from a copy", image, bad-repaired, repaired)}
	}
	return &statusError{exitDamaged, fmt.Errorf("%s: %d errors; --repair writes over what has a good copy", image, bad)}
}

// openVolume opens the devices of a file system for what needs no trees. done closes them.
func (a *app) openVolume(ctx context.Context, image string, readOnly bool) (vol *volume.Volume, done func() error, err error) {
	var devs []disk.Device
	done = func() (err error) {
		for _, d := range devs {
			err = errors.Join(err, d.Close())
		}
		return err
	}
	for _, path := range append([]string{image}, a.devices...) {
		d, err := disk.Open(path, disk.Options{ReadOnly: readOnly, ForceReadonly: a.forceReadonly, Direct: a.direct, Warn: a.warn})
		if err != nil {
			return nil, nil, errors.Join(err, done())
		}
		devs = append(devs, d)
	}
	if vol, err = volume.Open(ctx, devs, volume.Options{CheckSuper: treecheck.Super}); err != nil {
		return nil, nil, errors.Join(err, done())
	}
	return vol, done, nil
}

// scrubVolume runs the scrub with bar, metrics and a line for each finding.
func (a *app) scrubVolume(ctx context.Context, image string, vol *volume.Volume, repair bool) (scrub.Report, error) {
	sb := vol.Super()
	bar := a.progress("scrub "+image, sb.BytesUsed())
	defer bar.stop()
	count := func(*scrub.Report) {}
	if a.metrics != nil {
		m := a.metrics.NewScrub(sb.FSID().String())
		count = func(r *scrub.Report) {
			for k, c := range r.Counts {
				m.Set(scrub.Kind(k).String(), c.Bytes, c.Errors, c.Repaired)
			}
		}
	}
	n := 0
	report, err := scrub.Run(ctx, vol, scrub.Options{
		Repair:   repair,
		Progress: func(p scrub.Progress) { bar.update(p.Done); count(&p.Report) },
		Found: func(f scrub.Finding) {
			if n++; n <= maxFindings {
				fmt.Fprintln(a.out, finding(&f))
			} else if n == maxFindings+1 {
				fmt.Fprintf(a.out, "more than %d findings, the rest is only counted\n", maxFindings)
			}
		},
	})
	return report, err
}

// finding is a finding as one line.
func finding(f *scrub.Finding) string {
	line := f.Kind.String()
	switch f.Kind {
	case scrub.Super:
		line += fmt.Sprintf(" copy %d", f.Copy)
	case scrub.Metadata:
		line += fmt.Sprintf(" tree %s block %d", f.Tree, uint64(f.Addr))
	case scrub.Data:
		line += fmt.Sprintf(" %d bytes at %d", f.Len, uint64(f.Addr))
	}
	if f.Place.Dev != nil {
		if f.Kind != scrub.Super {
			line += fmt.Sprintf(" copy %d", f.Copy)
		}
		line += ", " + f.Place.String()
	}
	what := f.Err.Error()
	var c *fserr.Corrupt
	if errors.As(f.Err, &c) {
		what = c.Msg // the line has said where
	}
	line += ": " + what
	switch {
	case f.Repaired:
		line += "; repaired"
	case f.NoRepair != nil:
		line += "; not repaired: " + f.NoRepair.Error()
	}
	return line
}

// scrubSummary prints what has been verified.
func (a *app) scrubSummary(r *scrub.Report, repair bool) {
	for k, c := range r.Counts {
		line := fmt.Sprintf("%-9s %10s verified, %d errors", scrub.Kind(k), ibytes(c.Bytes), c.Errors)
		if repair {
			line += fmt.Sprintf(", %d repaired", c.Repaired)
		}
		a.info("%s", line)
	}
	if r.Unverified > 0 {
		a.info("%s of data have no checksums", ibytes(r.Unverified))
	}
}
