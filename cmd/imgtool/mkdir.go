package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"

	"github.com/spf13/cobra"

	"imgtool/engine/fserr"
	"imgtool/engine/inode"
)

func (a *app) mkdirCmd() *cobra.Command {
	var parents bool
	var mode string
	cmd := &cobra.Command{
		Use: "mkdir [-p] [-m MODE] IMAGE PATH...", Short: "make directories", Args: args(2, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			bits, err := strconv.ParseUint(mode, 8, 12)
			if err != nil {
				return usagef(cmd, "mode %q is not octal, such as 0755", mode)
			}
			attr := inode.Attr{Mode: uint32(bits)}
			return a.write(ctx, args[0], func(s *session) error {
				for _, p := range args[1:] {
					if err := s.mkdir(ctx, p, attr, parents); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVarP(&parents, "parents", "p", false, "make the directories above, too, and accept one that exists")
	cmd.Flags().StringVarP(&mode, "mode", "m", "0755", "permissions of the new directories, in octal: `MODE`")
	return cmd
}

// mkdir makes one directory; with parents those above it, too.
func (s *session) mkdir(ctx context.Context, p string, attr inode.Attr, parents bool) error {
	d, err := s.findParent(ctx, p)
	if parents && errors.Is(err, fs.ErrNotExist) {
		if err := s.mkdir(ctx, path.Dir(path.Clean(p)), attr, true); err != nil {
			return err
		}
		d, err = s.findParent(ctx, p)
	}
	if err != nil {
		return err
	}
	_, err = d.tree.Mkdir(ctx, d.dir, d.name, attr)
	if parents && errors.Is(err, fs.ErrExist) {
		n, ferr := s.find(ctx, p, true)
		if ferr != nil || n.isDir() {
			return ferr
		}
		err = fserr.ErrNotDir
	}
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	return nil
}
