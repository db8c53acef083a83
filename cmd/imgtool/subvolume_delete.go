package main

import (
	"github.com/spf13/cobra"
)

func (a *app) subvolumeDeleteCmd() *cobra.Command {
	return &cobra.Command{
		Use: "delete IMAGE PATH...", Short: "delete subvolumes and snapshots", Args: args(2, -1),
		Long: `Delete subvolumes. Their space is given back before the command ends; if it is cut short,
the next command that opens the image for writing, or the kernel, goes on with it.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return a.write(ctx, args[0], func(s *session) error {
				for _, path := range args[1:] {
					info, err := s.SubvolumeInfo(ctx, path)
					if err != nil {
						return err
					}
					if err := s.DeleteSubvolume(ctx, path); err != nil {
						return err
					}
					a.info("Delete subvolume %d (commit): '%s'", uint64(info.ID), path)
				}
				return s.CleanSubvolumes(ctx)
			})
		},
	}
}
