package volume

import "imgtool/engine/ondisk"

// Write is one range to be written to all its copies. Buf may be unaligned; aligned buffers (disk.Pool) travel without a
// bounce.
type Write struct {
	Addr ondisk.Logical
	Buf  []byte
}
