package ondisk

import (
	"encoding/binary"
	"encoding/hex"
	"time"
)

func le16(b []byte) uint16     { return binary.LittleEndian.Uint16(b) }
func le32(b []byte) uint32     { return binary.LittleEndian.Uint32(b) }
func le64(b []byte) uint64     { return binary.LittleEndian.Uint64(b) }
func put16(b []byte, v uint16) { binary.LittleEndian.PutUint16(b, v) }
func put32(b []byte, v uint32) { binary.LittleEndian.PutUint32(b, v) }
func put64(b []byte, v uint64) { binary.LittleEndian.PutUint64(b, v) }

// UUID is 16 bytes as they stand on disk; the zero value means none.
type UUID [16]byte

// IsZero reports whether there is no UUID.
func (u UUID) IsZero() bool { return u == UUID{} }

// String prints the usual 8-4-4-4-12 form.
func (u UUID) String() string {
	h := hex.EncodeToString(u[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// UUIDKey returns the key of the UUID's item of type t in the UUID tree: its first and second half as little-endian
// numbers (kernel fs/btrfs/uuid-tree.c).
func (u UUID) UUIDKey(t ItemType) Key { return Key{ObjectID(le64(u[:8])), t, le64(u[8:])} }

// Timespec is a point in time as inodes and root items hold it: seconds since 1970, and nanoseconds.
type Timespec struct {
	Sec  int64
	Nsec uint32
}

// TimespecSize is the size of a Timespec on disk in bytes.
const TimespecSize = 12

// TimeOf converts from Go's time.
func TimeOf(t time.Time) Timespec { return Timespec{t.Unix(), uint32(t.Nanosecond())} }

// Time converts to Go's time, in UTC.
func (t Timespec) Time() time.Time { return time.Unix(t.Sec, int64(t.Nsec)).UTC() }

// UnixNano returns nanoseconds since 1970, valid for the years 1678 to 2262.
func (t Timespec) UnixNano() int64 { return t.Sec*1e9 + int64(t.Nsec) }

func getTimespec(b []byte) Timespec { return Timespec{int64(le64(b)), le32(b[8:])} }

func putTimespec(b []byte, t Timespec) {
	put64(b, uint64(t.Sec))
	put32(b[8:], t.Nsec)
}
