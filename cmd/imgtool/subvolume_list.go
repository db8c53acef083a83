package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
)

// listColumns are the columns that flags of subvolume list add, in btrfs' order.
type listColumns struct {
	ogen, parent, parentUUID, receivedUUID, uuid bool
}

func (a *app) subvolumeListCmd() *cobra.Command {
	var cols listColumns
	var snapshots, readonly bool
	cmd := &cobra.Command{
		Use: "list [-pcuqRsr] IMAGE", Short: "list the subvolumes", Args: args(1, 1),
		Long: `List the subvolumes by id. As in btrfs, -q prints the UUID of the subvolume that one is a
snapshot of; the command has nothing to be quiet about.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			cols.parentUUID = a.quiet
			return a.read(ctx, args[0], func(s *session) error {
				list, err := s.Subvolumes(ctx)
				if err != nil {
					return err
				}
				w := bufio.NewWriter(a.out)
				for _, in := range list {
					if snapshots && in.ParentUUID.IsZero() || readonly && !in.Readonly {
						continue
					}
					cols.print(w, &in)
				}
				return w.Flush()
			})
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVarP(&cols.parent, "parent", "p", false, "print the parent's id")
	f.BoolVarP(&cols.ogen, "cgen", "c", false, "print the generation at creation")
	f.BoolVarP(&cols.uuid, "uuid", "u", false, "print the UUID")
	f.BoolVarP(&cols.receivedUUID, "received-uuid", "R", false, "print the UUID that it had where it was sent")
	f.BoolVarP(&snapshots, "snapshots", "s", false, "only snapshots")
	f.BoolVarP(&readonly, "readonly", "r", false, "only read-only ones")
	return cmd
}

func (c *listColumns) print(w io.Writer, in *subvol.Info) {
	fmt.Fprintf(w, "ID %d gen %d ", uint64(in.ID), uint64(in.Generation))
	if c.ogen {
		fmt.Fprintf(w, "cgen %d ", uint64(in.OGeneration))
	}
	if c.parent {
		fmt.Fprintf(w, "parent %d ", uint64(in.Parent))
	}
	fmt.Fprintf(w, "top level %d ", uint64(in.Parent))
	if c.parentUUID {
		fmt.Fprintf(w, "parent_uuid %-36s ", uuidOrDash(in.ParentUUID))
	}
	if c.receivedUUID {
		fmt.Fprintf(w, "received_uuid %-36s ", uuidOrDash(in.ReceivedUUID))
	}
	if c.uuid {
		fmt.Fprintf(w, "uuid %s ", uuidOrDash(in.UUID))
	}
	fmt.Fprintf(w, "path %s\n", strings.TrimPrefix(in.Path, "/"))
}

// uuidOrDash prints a UUID as btrfs subvolume does.
func uuidOrDash(u ondisk.UUID) string {
	if u.IsZero() {
		return "-"
	}
	return u.String()
}
