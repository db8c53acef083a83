package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print the version", Args: args(0, 0),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(a.out, "%s (%s %s/%s)\n", banner(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

// banner is the program's name and version, the latter from what the Go toolchain stamped into the binary.
func banner() string {
	version := "devel"
	if info, ok := debug.ReadBuildInfo(); ok {
		if v := info.Main.Version; v != "" && v != "(devel)" {
			version = v
		}
	}
	return "imgtool " + version
}
