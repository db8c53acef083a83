package main

import (
	"context"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"imgtool/engine/ondisk"
)

func (a *app) subvolumeGetDefaultCmd() *cobra.Command {
	return &cobra.Command{
		Use: "get-default IMAGE", Short: "show which subvolume a mount without options shows", Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return a.read(ctx, args[0], func(s *session) error {
				id, err := s.DefaultSubvolume(ctx)
				if err != nil {
					return err
				}
				if id == ondisk.FSTree {
					_, err = fmt.Fprintln(a.out, "ID 5 (FS_TREE)")
					return err
				}
				in, err := s.Subvols().Show(ctx, id)
				if err == nil {
					(&listColumns{}).print(a.out, &in)
				}
				return err
			})
		},
	}
}

func (a *app) subvolumeSetDefaultCmd() *cobra.Command {
	return &cobra.Command{
		Use: "set-default IMAGE PATH|ID", Short: "choose the subvolume that a mount without options shows", Args: args(2, 2),
		Long: `Choose the subvolume that a mount without options shows: by its path, or by its number as
"subvolume list" prints it. A path that looks like a number needs a slash in front.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return a.write(ctx, args[0], func(s *session) error {
				id, err := s.subvolID(ctx, args[1])
				if err != nil {
					return err
				}
				return s.SetDefaultSubvolume(ctx, id)
			})
		},
	}
}

// subvolID is the subvolume that the user named by number or path.
func (s *session) subvolID(ctx context.Context, name string) (ondisk.TreeID, error) {
	if n, err := strconv.ParseUint(name, 10, 64); err == nil && !strings.HasPrefix(name, "/") {
		id := ondisk.TreeID(n)
		if _, err := s.Subvols().Show(ctx, id); err != nil {
			return 0, advise(fmt.Errorf("subvolume %d: %w", n, err), fs.ErrNotExist, "`imgtool subvolume list` shows those there are")
		}
		return id, nil
	}
	in, err := s.SubvolumeInfo(ctx, name)
	return in.ID, err
}
