package main

import (
	"bufio"
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) filesystemShowCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "show [-b] IMAGE", Short: "show label, UUID and devices", Args: args(1, 1)}
	bytes := rawFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.read(cmd.Context(), args[0], func(s *session) error {
			sb, w := s.Super(), bufio.NewWriter(a.out)
			label := "none"
			if l := sb.Label(); l != "" {
				label = "'" + l + "'"
			}
			fmt.Fprintf(w, "Label: %s  uuid: %s\n", label, sb.FSID())
			fmt.Fprintf(w, "\tTotal devices %d FS bytes used %s\n", sb.NumDevices(), bytes(sb.BytesUsed()))
			for _, d := range deviceUse(s) {
				fmt.Fprintf(w, "\tdevid %4d size %s used %s path %s\n", d.id, bytes(d.size), bytes(d.allocated), d.path)
			}
			for _, id := range s.Volume().Missing() {
				fmt.Fprintf(w, "\tdevid %4d missing: name it with --device\n", id)
			}
			return w.Flush()
		})
	}
	return cmd
}
