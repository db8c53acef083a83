package metrics

import (
	"strings"

	"imgtool/disk"
	"imgtool/engine/extent"
	"imgtool/engine/ondisk"
	"imgtool/engine/txn"
)

// FromDB is the Source of a file system. It reads memory only, and may be asked while the file system is closed and
// afterwards.
func FromDB(db *txn.DB) Source { return SourceFunc(func() Snapshot { return fromDB(db) }) }

func fromDB(db *txn.DB) Snapshot {
	sb, st, readers, usage := db.Super(), db.Stats(), db.Pin().Stats(), db.Extents().Usage()
	s := Snapshot{
		UUID: sb.FSID().String(), Label: sb.Label(), Generation: uint64(db.Durable()),
		Commits: st.Commits, Passes: st.Passes, MaxPasses: st.MaxPasses,
		Refs: db.Extents().RefStats(), Readers: readers.Tickets, Asked: readers.Asked, Cache: db.Cache().Stats(),
		Spaces: []Space{space("data", &usage.Data), space("metadata", &usage.Metadata), space("system", &usage.System)},
	}
	for p, d := range st.Phase {
		s.Phases = append(s.Phases, Phase{txn.Phase(p).String(), d})
	}
	allocated := map[uint64]uint64{} // by devid
	for _, c := range db.Volume().Chunks() {
		for _, stripe := range c.Stripes {
			allocated[stripe.DevID] += c.StripeLength()
		}
	}
	for _, d := range db.Volume().Devices() {
		dev := Device{Name: d.Dev.Name(), Size: d.TotalBytes, Unallocated: d.TotalBytes - min(d.TotalBytes, allocated[d.DevID])}
		if c, ok := d.Dev.(interface{ Stats() disk.Stats }); ok {
			dev.Stats = c.Stats()
		}
		s.Devices = append(s.Devices, dev)
	}
	return s
}

func space(name string, u *extent.SpaceUsage) Space {
	return Space{
		Type: name, Mode: strings.ToLower(ondisk.BGProfileName(u.Flags)),
		Total: u.Total, Used: u.Used, Free: u.Free(), Reserved: u.Reserved + u.Promised, Pinned: u.Pinned, Held: u.Held,
	}
}
