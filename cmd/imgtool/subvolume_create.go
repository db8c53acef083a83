package main

import (
	"github.com/spf13/cobra"

	"imgtool/engine/subvol"
)

func (a *app) subvolumeCreateCmd() *cobra.Command {
	return &cobra.Command{
		Use: "create IMAGE PATH...", Short: "make empty subvolumes", Args: args(2, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return a.write(ctx, args[0], func(s *session) error {
				for _, path := range args[1:] {
					if _, err := s.CreateSubvolume(ctx, path, subvol.CreateOptions{}); err != nil {
						return err
					}
					a.info("Create subvolume '%s'", path)
				}
				return nil
			})
		},
	}
}
