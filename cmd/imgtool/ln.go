package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"imgtool/engine/fserr"
	"imgtool/engine/inode"
)

func (a *app) lnCmd() *cobra.Command {
	var symbolic bool
	cmd := &cobra.Command{
		Use: "ln [-s] IMAGE TARGET PATH", Short: "make a hard or symbolic link", Args: args(3, 3),
		Long: `Make PATH another name of the file TARGET, or with -s a symbolic link that holds the text
TARGET. If PATH is a directory the link goes into it, under TARGET's name.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, target := cmd.Context(), args[1]
			return a.write(ctx, args[0], func(s *session) error {
				path, err := s.into(ctx, args[2], target)
				if err != nil {
					return err
				}
				d, err := s.findParent(ctx, path)
				if err != nil {
					return err
				}
				if symbolic {
					_, err = d.tree.Symlink(ctx, d.dir, d.name, target, inode.Attr{})
				} else {
					var n *node
					if n, err = s.find(ctx, target, false); err != nil {
						return err
					}
					if n.Tree.ID() != d.tree.ID() {
						return &advice{fmt.Errorf("%s and %s are in different subvolumes: %w", target, path, fserr.ErrCrossDevice),
							"make a symbolic link with -s, or a copy"}
					}
					err = d.tree.Link(ctx, n.Ino, d.dir, d.name)
				}
				if err != nil {
					return fmt.Errorf("%s: %w", path, err)
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVarP(&symbolic, "symbolic", "s", false, "make a symbolic link")
	return cmd
}
