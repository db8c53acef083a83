package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"imgtool/engine/fserr"
	"imgtool/engine/inode"
)

func (a *app) catCmd() *cobra.Command {
	return &cobra.Command{
		Use: "cat IMAGE PATH...", Short: "print files", Args: args(2, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return a.read(ctx, args[0], func(s *session) error {
				for _, path := range args[1:] {
					n, err := s.find(ctx, path, true)
					if err != nil {
						return err
					}
					f, err := inode.OpenFile(ctx, n.Tree, n.Ino)
					if err != nil {
						return advise(fmt.Errorf("%s: %w", path, err), fserr.ErrIsDir, "`imgtool ls` lists it")
					}
					if _, err := io.Copy(a.out, f); err != nil {
						return fmt.Errorf("%s: %w", path, err)
					}
				}
				return nil
			})
		},
	}
}
