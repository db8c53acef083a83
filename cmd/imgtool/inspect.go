package main

import "github.com/spf13/cobra"

func (a *app) inspectCmd() *cobra.Command {
	return group(&cobra.Command{Use: "inspect-internal", Short: "print what is on the disk"},
		a.dumpSuperCmd(), a.dumpTreeCmd())
}
