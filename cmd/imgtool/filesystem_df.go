package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) filesystemDfCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "df [-b] IMAGE", Short: "show the space of each type of block groups", Args: args(1, 1)}
	bytes := rawFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.read(cmd.Context(), args[0], func(s *session) error {
			u := s.Usage()
			for _, sp := range namedSpaces(&u.Data, &u.System, &u.Metadata) {
				if _, err := fmt.Fprintf(a.out, "%s, %s: total=%s, used=%s\n", sp.kind, sp.profile, bytes(sp.Total), bytes(sp.Used)); err != nil {
					return err
				}
			}
			_, err := fmt.Fprintf(a.out, "GlobalReserve, single: total=%s, used=%s\n", bytes(u.GlobalReserve), bytes(0))
			return err
		})
	}
	return cmd
}
