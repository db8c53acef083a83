package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"syscall"
)

// Device is a fixed number of bytes that outlive the process.
//
// All methods may be called by many goroutines at once, but for Close, which comes last. Reads and writes of ranges
// that overlap, made at the same time, have no order. The context is looked at before each transfer; one that has begun
// is not interrupted.
type Device interface {
	// Name is what messages call the device: the path of a file, the given name of anything else.
	Name() string
	// Size is the length in bytes.
	Size() int64
	// Align says which transfers need no bounce buffer.
	Align() Alignment
	// ReadAt fills p from the bytes at off. As with io.ReadFull, a read that starts at or past the end gives 0 and
	// io.EOF, and one that crosses the end gives the bytes there are and io.ErrUnexpectedEOF. In all other cases n
	// is len(p) or err says why not.
	ReadAt(ctx context.Context, p []byte, off int64) (n int, err error)
	// WriteAt writes p at off. A write that would cross the end writes nothing and matches syscall.ENOSPC. n below
	// len(p) comes with an error; the bytes past n are then old, new or a mix.
	WriteAt(ctx context.Context, p []byte, off int64) (n int, err error)
	// Flush returns when all writes that returned before it was called are on stable storage.
	Flush(ctx context.Context) error
	// Discard tells the device that nobody needs the n bytes at off; what they read as afterwards is undefined. It
	// is advice: a device that cannot do it reports success.
	Discard(ctx context.Context, off, n int64) error
	// Close releases the device and its locks. It does not flush.
	Close() error
}

// Alignment is what a device wants of a transfer that shall not be bounced, in bytes, each a power of two. 1 means
// anything goes.
type Alignment struct {
	Offset int // of the offset and the length
	Memory int // of the buffer's address
}

// Op is a kind of request.
type Op uint8

// The operations of a [Request], a log [Entry] and a [Rule].
const (
	OpRead Op = iota
	OpWrite
	OpFlush
	OpDiscard
)

var opNames = [...]string{"read", "write", "flush", "discard"}

// String is the operation's name in lower case.
func (o Op) String() string {
	if int(o) < len(opNames) {
		return opNames[o]
	}
	return fmt.Sprintf("op(%d)", uint8(o))
}

// ErrBusy is matched by the error of opening a device that somebody else uses: locked by another process, attached to a
// loop device, or mounted. The error's text names the user and the remedy.
var ErrBusy = errors.New("in use")

// Error is a failed operation on a device, with the place. It unwraps to the cause, which for a File is the errno.
type Error struct {
	Op     Op
	Device string // name
	Off    int64  // bytes; 0 for a flush
	Len    int64  // bytes; 0 for a flush
	Err    error
}

// Error names the operation, the device and the range.
func (e *Error) Error() string {
	if e.Op == OpFlush {
		return fmt.Sprintf("flush %s: %v", e.Device, e.Err)
	}
	return fmt.Sprintf("%s %s: %d bytes at offset %d: %v", e.Op, e.Device, e.Len, e.Off, e.Err)
}

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }

// Stats counts what callers asked of a device and got. Bounces and read-modify-writes are not counted apart.
type Stats struct {
	Reads, ReadBytes       uint64
	Writes, WriteBytes     uint64
	Discards, DiscardBytes uint64
	Flushes                uint64
}

// counters is Stats while it counts.
type counters struct {
	reads, readBytes, writes, writeBytes, discards, discardBytes, flushes atomic.Uint64
}

// Stats is a snapshot; the numbers are read one by one, so under load they may be a few operations apart.
func (c *counters) Stats() Stats {
	return Stats{
		Reads: c.reads.Load(), ReadBytes: c.readBytes.Load(),
		Writes: c.writes.Load(), WriteBytes: c.writeBytes.Load(),
		Discards: c.discards.Load(), DiscardBytes: c.discardBytes.Load(),
		Flushes: c.flushes.Load(),
	}
}

func (c *counters) read(n int) {
	c.reads.Add(1)
	c.readBytes.Add(uint64(n))
}

func (c *counters) written(n int) {
	c.writes.Add(1)
	c.writeBytes.Add(uint64(n))
}

func (c *counters) discarded(n int64) {
	c.discards.Add(1)
	c.discardBytes.Add(uint64(n))
}

// clipRead bounds a read of want bytes at off by a device of size bytes. It returns how many bytes can be read, and
// the error to return once they have been.
func clipRead(size, off int64, want int) (int, error) {
	switch {
	case off < 0:
		return 0, syscall.EINVAL
	case want == 0:
		return 0, nil
	case off >= size:
		return 0, io.EOF
	case int64(want) > size-off:
		return int(size - off), io.ErrUnexpectedEOF
	}
	return want, nil
}

// errPastEnd is the cause of a write that crosses the end of its device; block devices say ENOSPC too.
var errPastEnd = fmt.Errorf("past the end of the device: %w", syscall.ENOSPC)

// checkWrite refuses a write of want bytes at off that does not fit.
func checkWrite(size, off int64, want int) error {
	if off < 0 {
		return syscall.EINVAL
	}
	if off > size || int64(want) > size-off {
		return errPastEnd
	}
	return nil
}

// checkDiscard refuses a discard outside the device.
func checkDiscard(size, off, n int64) error {
	if off < 0 || n < 0 || off > size || n > size-off {
		return syscall.EINVAL
	}
	return nil
}
