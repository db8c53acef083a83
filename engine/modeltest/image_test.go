package modeltest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"imgtool/disk"
	"imgtool/engine/check"
	"imgtool/engine/ondisk"
	"imgtool/engine/scrub"
	"imgtool/engine/volume"
)

// oneCopy lists the places of the copy of the metadata that faults of one copy befall.
func (w *world) oneCopy() []extentOf {
	var all []extentOf
	for _, c := range w.fs.Volume().Chunks() {
		if c.NumCopies < 2 {
			continue
		}
		p, err := w.fs.Volume().Place(c.Start, w.cfg.badCopy)
		if err != nil {
			panic(err)
		}
		all = append(all, extentOf{int64(p.Offset), int64(c.Length)})
	}
	return all
}

// spoil changes a bit in some blocks and sectors of one copy, and says in how many. What is free is hit as well.
func (w *world) spoil(ctx context.Context, rng *rand.Rand) (n int, err error) {
	vol, err := openVolume(ctx, w.mem)
	if err != nil {
		return 0, err
	}
	for _, c := range vol.Chunks() {
		if c.NumCopies < 2 {
			continue
		}
		p, err := vol.Place(c.Start, w.cfg.badCopy)
		if err != nil {
			return n, err
		}
		step := uint64(w.cfg.mkfs.NodeSize)
		buf := make([]byte, step)
		for off := uint64(0); off+step <= c.Length; off += step {
			at := int64(p.Offset) + int64(off)
			if _, err := w.mem.ReadAt(ctx, buf, at); err != nil {
				return n, err
			}
			if !slices.ContainsFunc(buf, func(b byte) bool { return b != 0 }) || rng.IntN(6) != 0 {
				continue
			}
			buf[rng.IntN(len(buf))] ^= 1 << rng.IntN(8)
			if _, err := w.mem.WriteAt(ctx, buf, at); err != nil {
				return n, err
			}
			n++
		}
	}
	return n, nil
}

// openVolume maps the chunks of an image.
func openVolume(ctx context.Context, img *disk.Mem) (*volume.Volume, error) {
	vol, err := volume.Open(ctx, []disk.Device{keepOpen{img}}, volume.Options{})
	if err != nil {
		return nil, err
	}
	_, err = scrub.Run(ctx, vol, scrub.Options{Depth: 1}) // adds the chunks of the chunk tree
	return vol, err
}

// spoiled reports whether a copy may be bad after a session.
func (w *world) spoiled() bool {
	return w.plan.fault == rot || w.plan.fault == silentTorn
}

// examine asks the offline checker about the image that a session left. Where one copy may be bad, scrub must be able to
// repair it first, and the checker is asked about the outcome.
func (w *world) examine(ctx context.Context) error {
	img := w.mem
	if w.spoiled() || w.dirty() {
		if !w.plan.scrub {
			img = img.Clone()
		}
		if err := repair(ctx, img); err != nil {
			return fmt.Errorf("scrub after the session: %w", err)
		}
	}
	if err := w.check(ctx, img, !w.committed); err != nil {
		return fmt.Errorf("check after the session: %w", err)
	}
	return nil
}

// dirty reports whether bad copies of an earlier session may still be there.
func (w *world) dirty() bool { return w.cfg.mkfs.Meta&ondisk.BGDup != 0 }

// repair scrubs an image; every bad copy must have a good one.
func repair(ctx context.Context, img *disk.Mem) error {
	vol, err := volume.Open(ctx, []disk.Device{keepOpen{img}}, volume.Options{})
	if err != nil {
		return err
	}
	var lost []error
	report, err := scrub.Run(ctx, vol, scrub.Options{Repair: true, Depth: 2, Found: func(f scrub.Finding) {
		if !f.Repaired {
			lost = append(lost, fmt.Errorf("%v of tree %v at %d, copy %d: %w, not repaired: %w", f.Kind, f.Tree, f.Addr, f.Copy, f.Err, f.NoRepair))
		}
	}})
	if err != nil {
		return err
	}
	if bad, repaired := report.Errors(); bad != repaired {
		return fmt.Errorf("%d bad copies, %d repaired: %w", bad, repaired, errors.Join(lost[:min(4, len(lost))]...))
	}
	return nil
}

// check asks the offline checker. With torn, one superblock copy may be torn or old.
func (w *world) check(ctx context.Context, img *disk.Mem, torn bool) error {
	report, err := check.Image(ctx, []disk.Device{keepOpen{img}}, check.Options{DataCsum: true, Workers: 1})
	if err != nil {
		return err
	}
	primary, mirror := false, false
	bad := slices.DeleteFunc(slices.Clone(report.Findings), func(f check.Finding) bool {
		if f.ID != check.SuperCsum && f.ID != check.SuperOld {
			return false
		}
		if ondisk.Physical(f.Block) == ondisk.SuperOffsets[0] {
			primary = true
		} else {
			mirror = true
		}
		return torn
	})
	if primary && mirror {
		bad = report.Findings
	}
	if len(bad) == 0 {
		return nil
	}
	var out strings.Builder
	for i := range bad[:min(len(bad), 8)] {
		fmt.Fprintf(&out, "\n%v", &bad[i])
	}
	return fmt.Errorf("%d findings:%s", len(bad), &out)
}
