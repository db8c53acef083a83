package main

import (
	"bufio"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
)

func (a *app) subvolumeShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show IMAGE [PATH]", Short: "show what is known of a subvolume", Args: args(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, path := cmd.Context(), "/"
			if len(args) > 1 {
				path = args[1]
			}
			return a.read(ctx, args[0], func(s *session) error {
				in, err := s.SubvolumeInfo(ctx, path)
				if err != nil {
					return err
				}
				return a.showSubvolume(&in)
			})
		},
	}
}

func (a *app) showSubvolume(in *subvol.Info) error {
	w := bufio.NewWriter(a.out)
	path, name := strings.TrimPrefix(in.Path, "/"), in.Name
	if in.ID == ondisk.FSTree {
		path, name = "/", "<FS_TREE>"
	}
	flags := "-"
	if in.Readonly {
		flags = "readonly"
	}
	fmt.Fprintln(w, path)
	for _, row := range []struct{ name, value string }{
		{"Name: \t\t\t", name},
		{"UUID: \t\t\t", uuidOrDash(in.UUID)},
		{"Parent UUID: \t\t", uuidOrDash(in.ParentUUID)},
		{"Received UUID: \t\t", uuidOrDash(in.ReceivedUUID)},
		{"Creation time: \t\t", timeOrDash(in.Created)},
		{"Subvolume ID: \t\t", fmt.Sprint(uint64(in.ID))},
		{"Generation: \t\t", fmt.Sprint(uint64(in.Generation))},
		{"Gen at creation: \t", fmt.Sprint(uint64(in.OGeneration))},
		{"Parent ID: \t\t", fmt.Sprint(uint64(in.Parent))},
		{"Top level ID: \t\t", fmt.Sprint(uint64(in.Parent))},
		{"Flags: \t\t\t", flags},
		{"Send transid: \t\t", fmt.Sprint(uint64(in.STransID))},
		{"Send time: \t\t", timeOrDash(in.Sent)},
		{"Receive transid: \t", fmt.Sprint(uint64(in.RTransID))},
		{"Receive time: \t\t", timeOrDash(in.Receive)},
	} {
		fmt.Fprintf(w, "\t%s%s\n", row.name, row.value)
	}
	fmt.Fprintf(w, "\tSnapshot(s):\n")
	for _, s := range in.Snapshots {
		fmt.Fprintf(w, "\t\t\t\t%s\n", strings.TrimPrefix(s, "/"))
	}
	return w.Flush()
}

// timeOrDash prints a time as btrfs subvolume show does; the zero of the disk format is no time.
func timeOrDash(t time.Time) string {
	if t.IsZero() || t.Unix() == 0 && t.Nanosecond() == 0 {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05 -0700")
}
