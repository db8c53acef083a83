package main

import (
	"bufio"

	"github.com/spf13/cobra"

	"imgtool/engine/manifest"
	"imgtool/engine/ondisk"
)

func (a *app) manifestCmd() *cobra.Command {
	return &cobra.Command{
		Use: "manifest IMAGE [SUBVOL]", Short: "describe every file as a line of JSON", Args: args(1, 2),
		Long: `Print one JSON object a line for each path of a subvolume (path or number, the top one by
default) and of the subvolumes inside it, sorted by the path's bytes.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return a.read(ctx, args[0], func(s *session) error {
				id := ondisk.FSTree
				if len(args) > 1 {
					var err error
					if id, err = s.subvolID(ctx, args[1]); err != nil {
						return err
					}
				}
				ns, err := s.Namespace(ctx, id)
				if err != nil {
					return err
				}
				w := bufio.NewWriterSize(a.out, 64<<10)
				if err := manifest.Write(ctx, w, ns); err != nil {
					return err
				}
				return w.Flush()
			})
		},
	}
}
