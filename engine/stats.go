package engine

import (
	"imgtool/delayedref"
	"imgtool/disk"
	"imgtool/engine/extbuf"
	"imgtool/engine/extent"
	"imgtool/engine/txn"
	"imgtool/pin"
)

// Stats are the figures of an open file system since it was opened.
type Stats struct {
	Txn         txn.Stats
	Cache       extbuf.Stats
	DelayedRefs delayedref.Stats // of the running transaction
	Pin         pin.Stats
	Usage       extent.Usage
	Devices     []DeviceStats
}

// DeviceStats are the figures of one device.
type DeviceStats struct {
	Name  string
	Stats disk.Stats
}

// Stats returns the figures of this instant.
func (fs *FS) Stats() Stats {
	s := Stats{
		Txn: fs.db.Stats(), Cache: fs.cache.Stats(), DelayedRefs: fs.db.Extents().RefStats(), Pin: fs.db.Pin().Stats(),
		Usage: fs.Usage(),
	}
	for _, d := range fs.devs {
		if c, ok := d.(interface{ Stats() disk.Stats }); ok {
			s.Devices = append(s.Devices, DeviceStats{d.Name(), c.Stats()})
		}
	}
	return s
}

// Usage returns how much space there is and what it is used for.
func (fs *FS) Usage() extent.Usage { return fs.db.Extents().Usage() }
