package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/subvol"
)

func (a *app) mvCmd() *cobra.Command {
	var noReplace, exchange bool
	cmd := &cobra.Command{
		Use: "mv [-n] IMAGE SOURCE DEST", Short: "rename or move a file, directory or subvolume", Args: args(3, 3),
		Long: `Rename SOURCE to DEST, or move it into DEST if that is a directory. A file that DEST names is
replaced. From one subvolume to another only subvolumes move.`,
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
				err = s.Rename(ctx, subvol.Place{Tree: from.tree.ID(), Dir: from.dir, Name: from.name},
					subvol.Place{Tree: to.tree.ID(), Dir: to.dir, Name: to.name}, mode)
				if err != nil {
					if from.tree != to.tree && errors.Is(err, fserr.ErrCrossDevice) {
						return &advice{fmt.Errorf("%s and %s are in different subvolumes: %w", args[1], dest, fserr.ErrCrossDevice),
							"copy it with get and put, then remove it"}
					}
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
