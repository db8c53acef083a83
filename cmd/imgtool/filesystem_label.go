package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) filesystemLabelCmd() *cobra.Command {
	return &cobra.Command{
		Use: "label IMAGE [LABEL]", Short: "print or set the label", Args: args(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if len(args) == 2 {
				return a.write(ctx, args[0], func(s *session) error { return s.SetLabel(ctx, args[1]) })
			}
			return a.read(ctx, args[0], func(s *session) error {
				sb := s.Super()
				_, err := fmt.Fprintln(a.out, sb.Label())
				return err
			})
		},
	}
}
