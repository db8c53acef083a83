package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"imgtool/engine"
	"imgtool/engine/rescue"
	"imgtool/engine/scrub"
	"imgtool/engine/volume"
)

func (a *app) rescueCmd() *cobra.Command {
	return group(&cobra.Command{Use: "rescue", Short: "make a broken file system usable again", Long: `Make a broken file system usable again. Unless --in-place is given, the image is copied to
IMAGE.rescued, or to the FILE of -o, and the copy is changed; the image stays as it is.`},
		a.superRecoverCmd(), a.zeroLogCmd(), a.clearSpaceCacheCmd())
}

func (a *app) superRecoverCmd() *cobra.Command {
	return a.rescueWord(&cobra.Command{
		Use: "super-recover [--in-place | -o FILE] IMAGE", Short: "restore bad superblocks from good copies",
		Long: `Write over superblock copies that are damaged or old with the newest good one.

Exit status: 0 all copies were good, 3 bad copies are left, 4 all bad copies have been restored.`,
	}, func(ctx context.Context, name string, vol *volume.Volume) error {
		bad, recovered, err := rescue.SuperRecover(ctx, vol, func(f scrub.Finding) { fmt.Fprintln(a.out, finding(&f)) })
		switch {
		case err != nil:
			return err
		case bad == 0:
			a.info("%s: all superblocks are good", name)
			return nil
		case bad != recovered:
			return &statusError{exitDamaged, fmt.Errorf("%s: %d of %d bad superblocks have been restored", name, recovered, bad)}
		}
		return &statusError{exitRepaired, fmt.Errorf("%s: %d bad superblocks have been restored", name, bad)}
	})
}

func (a *app) zeroLogCmd() *cobra.Command {
	return a.rescueWord(&cobra.Command{
		Use: "zero-log [--in-place | -o FILE] IMAGE", Short: "drop a log tree that cannot be replayed",
		Long: `Drop the log tree. What programs have made durable with fsync since the last commit, some
30 seconds at most, is lost. Mounting the file system with the kernel replays the log instead; do
this only if that fails.`,
	}, func(ctx context.Context, name string, vol *volume.Volume) error {
		sb := vol.Super()
		had, err := rescue.ZeroLog(ctx, vol)
		if err == nil && had {
			a.info("%s: dropped the log tree at %d", name, uint64(sb.LogRoot()))
		} else if err == nil {
			a.info("%s: there is no log tree", name)
		}
		return err
	})
}

func (a *app) clearSpaceCacheCmd() *cobra.Command {
	var version int
	cmd := a.rescueCopy(&cobra.Command{
		Use: "clear-space-cache [--in-place | -o FILE] v1|v2 IMAGE", Short: "remove what is remembered of free space",
		Long: `Remove the space cache of version 1, or the free-space tree (v2), which may be damaged in any
way: what is free is known from the extent tree. The kernel makes a cache of version 1 anew at the
next mount, and a free-space tree if it is mounted with space_cache=v2. A file system with a
block-group tree cannot be without a free-space tree, so that is made anew at once.`,
	}, 1, func(ctx context.Context, image string) error {
		o := a.openOptions()
		n, err := engine.ClearSpaceCache(ctx, image, version, o)
		switch {
		case err != nil:
			return err
		case n == 0:
			a.info("%s: there is no space cache v%d", image, version)
		case version == 1:
			a.info("%s: removed the space caches of %d block groups", image, n)
		default:
			a.info("%s: cleared the free-space tree", image)
		}
		return nil
	})
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch args[0] {
		case "v1":
			version = 1
		case "v2":
			version = 2
		default:
			return usagef(cmd, "%s: there are the space caches v1 and v2", args[0])
		}
		return run(cmd, args)
	}
	return cmd
}

// rescueWord is rescueCopy for a command that needs the superblocks only.
func (a *app) rescueWord(cmd *cobra.Command, run func(ctx context.Context, name string, vol *volume.Volume) error) *cobra.Command {
	return a.rescueCopy(cmd, 0, func(ctx context.Context, image string) error {
		vol, done, err := a.openVolume(ctx, image, false)
		if err != nil {
			return &imageError{image, err}
		}
		err = run(ctx, image, vol)
		if e := done(); err == nil {
			err = e
		}
		return err
	})
}

// rescueCopy gives a command of rescue its flags and its image, which is its argument number at: a copy, or the image
// itself. A copy on which run fails is removed, unless run has merely a status to tell.
func (a *app) rescueCopy(cmd *cobra.Command, at int, run func(ctx context.Context, image string) error) *cobra.Command {
	var inPlace bool
	var dest string
	cmd.Args = args(at+1, at+1)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		ctx, image := cmd.Context(), args[at]
		switch {
		case a.forceReadonly:
			return errors.New("--force-readonly is for commands that only read: leave it out")
		case inPlace && dest != "":
			return usagef(cmd, "--in-place and -o exclude each other")
		case !inPlace && len(a.devices) > 0:
			return usagef(cmd, "a file system of several devices is rescued --in-place; copy the devices first")
		case !inPlace:
			if dest == "" {
				dest = image + ".rescued"
			}
			if err := a.copyImage(ctx, image, dest); err != nil {
				return &imageError{image, err}
			}
			image = dest
		}
		err = run(ctx, image)
		if err == nil {
			return nil
		}
		var status *statusError
		var open *imageError
		var left error
		if !inPlace && !errors.As(err, &status) {
			left = os.Remove(image) // a copy of what is no file system, or half of the work
		}
		if errors.As(err, &open) {
			return &imageError{args[at], errors.Join(open.err, left)}
		}
		return &imageFault{image, errors.Join(err, left)}
	}
	cmd.Flags().BoolVar(&inPlace, "in-place", false, "change the image itself")
	cmd.Flags().StringVarP(&dest, "output", "o", "", "`FILE` that becomes the changed copy")
	return cmd
}

func (a *app) copyImage(ctx context.Context, image, dest string) error {
	bar := a.progress("copy "+image, 0)
	defer bar.stop()
	return rescue.CopyImage(ctx, image, dest, bar.update)
}
