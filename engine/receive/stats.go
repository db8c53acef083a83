package receive

import (
	"sync/atomic"

	"imgtool/engine/sendstream"
)

// Stats are the figures of one or more receivings. All may be read at any time.
type Stats struct {
	Commands, Bytes  atomic.Uint64 // of streams: commands carried out or failed, bytes up to the last of them
	Data             atomic.Uint64 // bytes of files that came as data, compressed or not, as long as they are in the file
	Clones           atomic.Uint64 // clone commands carried out
	Stored, Unpacked atomic.Uint64 // compressed pieces that became extents as they were; that had to be unpacked
	Subvolumes       atomic.Uint64 // received whole and committed
	Errors           atomic.Uint64 // tolerated
}

// count takes a command that has been carried out, or has failed with err.
func (s *Stats) count(c *sendstream.Command, err error) {
	s.Commands.Add(1)
	if err != nil {
		return
	}
	switch c.Cmd {
	case sendstream.CmdWrite:
		s.Data.Add(uint64(len(c.Bytes(sendstream.AttrData))))
	case sendstream.CmdEncodedWrite:
		s.Data.Add(c.Uint(sendstream.AttrUnencodedFileLen))
	case sendstream.CmdClone:
		s.Clones.Add(1)
	}
}
