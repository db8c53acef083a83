package main

import (
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"imgtool/engine/fserr"
	"imgtool/engine/inode"
)

func (a *app) mvCmd() *cobra.Command {
	var noReplace, exchange bool
	cmd := &cobra.Command{
		Use: "mv [-n] IMAGE SOURCE DEST", Short: "rename or move a file, directory or subvolume", Args: args(3, 3),
		Long: `Rename SOURCE to DEST, or move it into DEST if that is a directory. A file that DEST names is
replaced. Nothing moves from one subvolume to another.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			mode := inode.RenameReplace
			switch {
			case noReplace && exchange:
				return usagef(cmd, "--no-clobber and --exchange exclude each other")
			case noReplace:
				mode = inode.RenameNoReplace
			case exchange:
				mode = inode.RenameExchange
			}
			return a.write(ctx, args[0], func(s *session) error {
				dest := args[2]
				if !exchange {
					var err error
					if dest, err = s.into(ctx, dest, args[1]); err != nil {
						return err
					}
				}
				from, err := s.findParent(ctx, args[1])
				if err != nil {
					return err
				}
				to, err := s.findParent(ctx, dest)
				if err != nil {
					return err
				}
				if from.tree != to.tree {
					return &advice{fmt.Errorf("%s and %s are in different subvolumes: %w", args[1], dest, fserr.ErrCrossDevice),
						"copy it with get and put, then remove it"}
				}
				if err := from.tree.Rename(ctx, from.dir, from.name, to.dir, to.name, mode); err != nil {
					err = fmt.Errorf("%s to %s: %w", args[1], dest, err)
					err = advise(err, fserr.ErrNotEmpty, "a directory only takes the place of an empty one")
					return advise(err, fs.ErrNotExist, "`imgtool ls` shows what there is")
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVarP(&noReplace, "no-clobber", "n", false, "fail if DEST exists")
	cmd.Flags().BoolVar(&exchange, "exchange", false, "exchange SOURCE and DEST")
	return cmd
}
