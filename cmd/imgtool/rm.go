package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

func (a *app) rmCmd() *cobra.Command {
	var recursive, force bool
	cmd := &cobra.Command{
		Use: "rm [-rf] IMAGE PATH...", Short: "remove files and directories", Args: args(2, -1),
		Long: `Remove files; with -r also directories and all that is in them. A subvolume is removed
when it is empty; delete others first (imgtool subvolume delete).`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return a.write(ctx, args[0], func(s *session) error {
				for _, p := range args[1:] {
					err := s.remove(ctx, p, recursive)
					if err != nil && !(force && errors.Is(err, fs.ErrNotExist)) {
						return err
					}
				}
				return s.CleanSubvolumes(ctx) // what was empty subvolumes
			})
		},
	}
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "remove directories with what is in them")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "accept what is not there")
	return cmd
}

// remove removes one name.
func (s *session) remove(ctx context.Context, p string, recursive bool) error {
	d, err := s.findParent(ctx, p)
	if err != nil {
		return err
	}
	if recursive {
		err = removeAll(ctx, d)
	} else {
		err = d.tree.Unlink(ctx, d.dir, d.name)
	}
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", p, err)
	err = advise(err, fserr.ErrNotEmpty, "`imgtool subvolume delete` deletes a subvolume with what is in it")
	err = advise(err, fserr.ErrIsDir, "`rm -r` removes a directory with what is in it")
	return advise(err, fs.ErrNotExist, "`imgtool ls` shows what there is")
}

// removeAll removes a name and, if it is a directory, first all that is in it. Subvolumes stop it.
func removeAll(ctx context.Context, p place) error {
	e, err := p.tree.Lookup(ctx, p.dir, p.name)
	if err != nil {
		return err
	}
	if e.Type != ondisk.FTDir {
		return p.tree.Unlink(ctx, p.dir, p.name)
	}
	if e.IsSubvol() { // goes when it is empty, as does the empty place that a snapshot has for one in its source
		return p.tree.Rmdir(ctx, p.dir, p.name)
	}
	entries, err := p.tree.Entries(ctx, e.Ino())
	if err != nil {
		return err
	}
	for _, below := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := removeAll(ctx, place{p.tree, e.Ino(), below.Name}); err != nil {
			return fmt.Errorf("%s: %w", below.Name, err)
		}
	}
	return p.tree.Rmdir(ctx, p.dir, p.name)
}
