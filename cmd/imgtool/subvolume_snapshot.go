package main

import (
	"github.com/spf13/cobra"
)

func (a *app) subvolumeSnapshotCmd() *cobra.Command {
	var readonly bool
	cmd := &cobra.Command{
		Use: "snapshot [-r] IMAGE SOURCE DEST", Short: "make a snapshot of a subvolume", Args: args(3, 3),
		Long: `Make a snapshot of the subvolume SOURCE at DEST, or in DEST under SOURCE's name if DEST is
a directory. It shares all blocks with its source until one of them is changed.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, source, dest := cmd.Context(), args[1], args[2]
			return a.write(ctx, args[0], func(s *session) error {
				dest, err := s.into(ctx, dest, source)
				if err != nil {
					return err
				}
				if _, err := s.Snapshot(ctx, source, dest, readonly); err != nil {
					return err
				}
				kind := "snapshot"
				if readonly {
					kind = "readonly snapshot"
				}
				a.info("Create %s of '%s' in '%s'", kind, source, dest)
				return nil
			})
		},
	}
	cmd.Flags().BoolVarP(&readonly, "readonly", "r", false, "make it read-only")
	return cmd
}
