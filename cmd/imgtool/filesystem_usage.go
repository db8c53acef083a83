package main

import (
	"bufio"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"imgtool/engine/extent"
	"imgtool/engine/ondisk"
)

func (a *app) filesystemUsageCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "usage [-b] IMAGE", Short: "show the space of devices and block groups", Args: args(1, 1)}
	bytes := rawFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.read(cmd.Context(), args[0], func(s *session) error {
			u, w := s.Usage(), bufio.NewWriter(a.out)
			overall(w, &u, bytes)
			use := deviceUse(s)
			for _, sp := range namedSpaces(&u.Data, &u.Metadata, &u.System) {
				fmt.Fprintf(w, "\n%s,%s: Size:%s, Used:%s (%s)\n", sp.kind, sp.profile, bytes(sp.Total), bytes(sp.Used), percent(sp.Used, sp.Total))
				for _, d := range use {
					if n := d.byType[sp.Flags&ondisk.BGTypeMask]; n > 0 {
						fmt.Fprintf(w, "   %s\t%10s\n", d.path, bytes(n))
					}
				}
			}
			fmt.Fprintf(w, "\nUnallocated:\n")
			for _, d := range use {
				fmt.Fprintf(w, "   %s\t%10s\n", d.path, bytes(d.size-min(d.size, d.allocated)))
			}
			return w.Flush()
		})
	}
	return cmd
}

// overall prints the first block of filesystem usage.
func overall(w io.Writer, u *extent.Usage, bytes func(uint64) string) {
	data, meta := copiesOf(&u.Data), copiesOf(&u.Metadata)
	used := u.Data.Used*data + u.Metadata.Used*meta + u.System.Used*copiesOf(&u.System)
	free := u.Data.Free() + u.Unallocated/data // all of it becomes data
	least := u.Data.Free() + u.Unallocated/2   // all of it gets two copies, the most on one device
	fmt.Fprintf(w, "Overall:\n")
	row := func(name, value string) { fmt.Fprintf(w, "    %-24s%14s\n", name, value) }
	row("Device size:", bytes(u.DeviceTotal))
	row("Device allocated:", bytes(u.DeviceAllocated))
	row("Device unallocated:", bytes(u.DeviceTotal-min(u.DeviceTotal, u.DeviceAllocated)))
	row("Used:", bytes(used))
	row("Free (estimated):", bytes(free)+"\t(min: "+bytes(least)+")")
	row("Data ratio:", fmt.Sprintf("%d.00", data))
	row("Metadata ratio:", fmt.Sprintf("%d.00", meta))
	row("Global reserve:", bytes(u.GlobalReserve)+"\t(used: "+bytes(0)+")")
}

// copiesOf is how many bytes of devices each byte of the block groups takes.
func copiesOf(u *extent.SpaceUsage) uint64 {
	switch u.Flags & ondisk.BGProfileMask {
	case ondisk.BGDup, ondisk.BGRaid1, ondisk.BGRaid10:
		return 2
	case ondisk.BGRaid1C3:
		return 3
	case ondisk.BGRaid1C4:
		return 4
	}
	return 1
}

func percent(part, whole uint64) string {
	if whole == 0 {
		return "0.00%"
	}
	return fmt.Sprintf("%.2f%%", 100*float64(part)/float64(whole))
}

// use is what the chunks take of one device.
type use struct {
	id        uint64
	path      string
	size      uint64
	allocated uint64
	byType    map[uint64]uint64 // by ondisk.BG* type bits
}

// deviceUse adds the chunks up by device.
func deviceUse(s *session) []use {
	var list []use
	at := map[uint64]int{}
	for _, d := range s.Volume().Devices() {
		at[d.DevID] = len(list)
		list = append(list, use{id: d.DevID, path: d.Dev.Name(), size: d.TotalBytes, byType: map[uint64]uint64{}})
	}
	for _, c := range s.Volume().Chunks() {
		for _, stripe := range c.Stripes {
			if i, ok := at[stripe.DevID]; ok {
				list[i].allocated += c.StripeLength()
				list[i].byType[c.Type&ondisk.BGTypeMask] += c.StripeLength()
			}
		}
	}
	return list
}
