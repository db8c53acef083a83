package main

import (
	"github.com/spf13/cobra"

	"imgtool/bench"
)

func (a *app) benchSearchCmd() *cobra.Command {
	var o bench.SearchOptions
	cmd := &cobra.Command{
		Use: "search [--json]", Short: "measure what a search of a commit root costs under each policy", Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return bench.RunSearch(cmd.Context(), a.out, o) },
	}
	cmd.Flags().BoolVar(&o.JSON, "json", false, "print the results as JSON")
	return cmd
}
