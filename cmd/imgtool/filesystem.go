package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"imgtool/engine/extent"
	"imgtool/engine/ondisk"
)

func (a *app) filesystemCmd() *cobra.Command {
	return group(&cobra.Command{Use: "filesystem", Short: "show space and devices, get and set the label"},
		a.filesystemDfCmd(), a.filesystemUsageCmd(), a.filesystemShowCmd(), a.filesystemLabelCmd())
}

// rawFlag adds btrfs' -b to a command and returns how sizes are printed.
func rawFlag(cmd *cobra.Command) func(uint64) string {
	raw := cmd.Flags().BoolP("raw", "b", false, "print numbers of bytes")
	return func(n uint64) string {
		if *raw {
			return fmt.Sprint(n)
		}
		return ibytes(n)
	}
}

// namedSpace is one kind of block groups as filesystem df and usage name it.
type namedSpace struct {
	*extent.SpaceUsage
	kind, profile string
}

// namedSpaces returns the kinds in the given order, without those that have no block group.
func namedSpaces(u ...*extent.SpaceUsage) []namedSpace {
	var list []namedSpace
	for _, s := range u {
		if s.Groups > 0 {
			list = append(list, namedSpace{s, ondisk.BGTypeName(s.Flags), ondisk.BGProfileName(s.Flags)})
		}
	}
	return list
}
