package main

import "github.com/spf13/cobra"

func (a *app) benchCmd() *cobra.Command {
	return group(&cobra.Command{Use: "bench", Short: "replay the race of commit-root readers, and measure their searches"},
		a.benchRaceCmd(), a.benchSearchCmd())
}
