package main

import (
	"context"

	"github.com/spf13/cobra"

	"imgtool/disk"
	"imgtool/engine/fserr"
	"imgtool/engine/inspect"
	"imgtool/engine/ondisk"
)

func (a *app) dumpSuperCmd() *cobra.Command {
	var all bool
	var copy int
	var o inspect.SuperOptions
	cmd := &cobra.Command{
		Use: "dump-super [-a] [-f] [-F] [-s COPY] IMAGE...", Short: "print superblocks", Args: args(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if copy < 0 || copy >= len(ondisk.SuperOffsets) {
				return usagef(cmd, "there is no superblock copy %d: use 0 to %d", copy, len(ondisk.SuperOffsets)-1)
			}
			which := ondisk.SuperOffsets[copy : copy+1]
			if all {
				which = ondisk.SuperOffsets[:]
			}
			for _, image := range args {
				if err := a.dumpSuper(cmd.Context(), image, which, o); err != nil {
					return &imageError{image, err}
				}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVarP(&o.Full, "full", "f", false, "also print sys_chunk_array and the backup roots")
	f.BoolVarP(&all, "all", "a", false, "print every copy that the device has room for")
	f.IntVarP(&copy, "super", "s", 0, "print copy 0, 1 or 2")
	f.BoolVarP(&o.Force, "force", "F", false, "print it even without btrfs' magic number")
	return cmd
}

// dumpSuper reads superblock copies as they are; the rest of the image need not be readable.
func (a *app) dumpSuper(ctx context.Context, image string, offsets []ondisk.Physical, o inspect.SuperOptions) error {
	dev, err := disk.Open(image, disk.Options{ReadOnly: true, ForceReadonly: a.forceReadonly, Direct: a.direct, Warn: a.warn})
	if err != nil {
		return err
	}
	defer dev.Close() // only read
	var copies []inspect.SuperCopy
	for _, off := range offsets {
		if len(offsets) > 1 && int64(off)+ondisk.SuperSize > dev.Size() {
			continue
		}
		sb := new(ondisk.SuperBlock)
		if int64(off)+ondisk.SuperSize > dev.Size() {
			return fserr.Corruptf("super", 0, uint64(off), "the file ends before it, at %d", dev.Size())
		}
		if _, err := dev.ReadAt(ctx, sb[:], int64(off)); err != nil {
			return err
		}
		copies = append(copies, inspect.SuperCopy{Offset: off, Super: sb})
	}
	return inspect.Supers(a.out, image, copies, o)
}
