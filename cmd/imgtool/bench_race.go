package main

import (
	"github.com/spf13/cobra"

	"imgtool/bench"
)

func (a *app) benchRaceCmd() *cobra.Command {
	var policy string
	var o bench.RaceOptions
	cmd := &cobra.Command{
		Use: "race [--policy POLICY] [--image IMAGE] [--json]", Short: "replay the race of a send with a snapshot commit", Args: args(0, 0),
		Long: `Replay, step by step and on a real image, the race that Linux commit be6821f82c3c fixed: a
reader of a commit root, a commit that snapshots the tree, and a third that allocates the reader's
block anew. Exit status 0 if each policy did what it promises.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.Policies, err = bench.ParsePolicies(policy); err != nil {
				return usage(cmd, err)
			}
			err = bench.RunRace(cmd.Context(), a.out, o)
			if err != nil && o.Image != "" {
				err = &imageFault{o.Image, err}
			}
			return err
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&policy, "policy", "all", "reader policy: `shared|clone-root|epoch|all`")
	f.StringVar(&o.Image, "image", "", "run on `IMAGE`: one that exists, or a name for a new one (default temporary images)")
	f.Int64Var(&o.Seed, "seed", 0, "vary what the images hold, and so the block that is raced for")
	f.BoolVar(&o.JSON, "json", false, "print the results as JSON")
	return cmd
}
