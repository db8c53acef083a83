package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"imgtool/engine/extent"
	"imgtool/engine/ondisk"
)

// mkfsSummary is what mkfs tells of the file system it made.
type mkfsSummary struct {
	Label       string        `json:"label"`
	UUID        string        `json:"uuid"`
	NodeSize    int           `json:"nodesize"`
	SectorSize  int           `json:"sectorsize"`
	Size        uint64        `json:"size"`
	BytesUsed   uint64        `json:"bytes_used"`
	Generation  uint64        `json:"generation"`
	BlockGroups []mkfsGroups  `json:"block_groups"`
	Features    []string      `json:"features"`
	Checksum    string        `json:"checksum"`
	Devices     []mkfsDevice  `json:"devices"`
	Imported    *mkfsImported `json:"rootdir,omitempty"`
}

type mkfsGroups struct {
	Type    string `json:"type"`
	Profile string `json:"profile"`
	Size    uint64 `json:"size"`
	Used    uint64 `json:"used"`
}

type mkfsDevice struct {
	ID   uint64 `json:"id"`
	Size uint64 `json:"size"`
	Path string `json:"path"`
}

// summarize reads the summary off the file system, right after a commit.
func summarize(s *session) *mkfsSummary {
	sb, u := s.Super(), s.Usage()
	sum := &mkfsSummary{
		Label: sb.Label(), UUID: sb.FSID().String(), NodeSize: int(sb.NodeSize()), SectorSize: int(sb.SectorSize()),
		Size: sb.TotalBytes(), BytesUsed: sb.BytesUsed(), Generation: uint64(sb.Generation()),
		Features: featureNames(&sb), Checksum: sb.Checksum().String(),
	}
	for _, k := range []struct {
		name string
		*extent.SpaceUsage
	}{{"Data", &u.Data}, {"Metadata", &u.Metadata}, {"System", &u.System}} {
		sum.BlockGroups = append(sum.BlockGroups, mkfsGroups{k.name, ondisk.BGProfileName(k.Flags), k.Total, k.Used})
	}
	for _, d := range s.Volume().Devices() {
		sum.Devices = append(sum.Devices, mkfsDevice{d.DevID, d.TotalBytes, d.Dev.Name()})
	}
	return sum
}

// featureNames are the features of mkfs that the superblock shows, under mkfs' names.
func featureNames(sb *ondisk.SuperBlock) []string {
	var names []string
	for _, f := range []struct {
		on   bool
		name string
	}{
		{sb.HasIncompat(ondisk.IncompatExtendedIref), "extref"},
		{sb.HasIncompat(ondisk.IncompatSkinnyMetadata), "skinny-metadata"},
		{sb.HasIncompat(ondisk.IncompatNoHoles), "no-holes"},
		{sb.HasCompatRO(ondisk.CompatROFreeSpaceTree), "free-space-tree"},
		{sb.HasCompatRO(ondisk.CompatROBlockGroupTree), "block-group-tree"},
	} {
		if f.on {
			names = append(names, f.name)
		}
	}
	return names
}

func (m *mkfsSummary) printJSON(out io.Writer) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(m)
}

func (m *mkfsSummary) print(out io.Writer, verbose bool) error {
	w := bufio.NewWriter(out)
	label := m.Label
	if label == "" {
		label = "(null)"
	}
	if i := m.Imported; i != nil {
		fmt.Fprintf(w, "Rootdir from:       %s\n", i.Source)
	}
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-20s"+format+"\n", append([]any{name}, args...)...)
	}
	row("Label:", "%s", label)
	row("UUID:", "%s", m.UUID)
	row("Node size:", "%d", m.NodeSize)
	row("Sector size:", "%d", m.SectorSize)
	row("Filesystem size:", "%s", ibytes(m.Size))
	fmt.Fprintln(w, "Block group profiles:")
	for _, g := range m.BlockGroups {
		fmt.Fprintf(w, "  %-18s%-8s%15s\n", g.Type+":", g.Profile, ibytes(g.Size))
		if verbose {
			fmt.Fprintf(w, "  %-18s%-8s%15s\n", "", "used", ibytes(g.Used))
		}
	}
	row("Features:", "%s", strings.Join(m.Features, ", "))
	row("Checksum:", "%s", m.Checksum)
	row("Number of devices:", "%d", len(m.Devices))
	fmt.Fprintf(w, "Devices:\n   ID %11s  PATH\n", "SIZE")
	for _, d := range m.Devices {
		fmt.Fprintf(w, "%5d %11s  %s\n", d.ID, ibytes(d.Size), d.Path)
	}
	return w.Flush()
}
