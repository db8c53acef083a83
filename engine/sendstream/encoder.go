package sendstream

import (
	"encoding/binary"
	"fmt"
	"math"

	"imgtool/engine/fserr"
)

// Encoder appends commands to a buffer, for a sender that fills in data later or writes many commands at once. A
// command is Begin, attributes, and End or Leave; data comes last. The first error stays. It is for one goroutine.
type Encoder struct {
	Buf []byte // what has been encoded; the caller may take it between commands

	version uint32
	start   int // of the command under way
	err     error
}

// NewEncoder encodes a version, 1 to MaxVersion.
func NewEncoder(version uint32) (*Encoder, error) {
	if version == 0 || version > MaxVersion {
		return nil, fmt.Errorf("send stream of version %d, 1 to %d are known: %w", version, MaxVersion, fserr.ErrNotSup)
	}
	return &Encoder{version: version}, nil
}

// Version is what is being encoded.
func (e *Encoder) Version() uint32 { return e.version }

// Err is the first error: an attribute or a command that is too long, or one that the version does not have.
func (e *Encoder) Err() error { return e.err }

// Header appends the header of a stream.
func (e *Encoder) Header() {
	e.Buf = binary.LittleEndian.AppendUint32(append(e.Buf, magic...), e.version)
}

// Begin starts a command.
func (e *Encoder) Begin(c Cmd) {
	e.start = len(e.Buf)
	e.Buf = append(e.Buf, 0, 0, 0, 0, byte(c), byte(c>>8), 0, 0, 0, 0)
	if e.err == nil && (int(c) >= len(commands) || commands[c].version > e.version || commands[c].name == "") {
		e.err = fmt.Errorf("%v in a send stream of version %d: %w", c, e.version, fserr.ErrNotSup)
	}
}

func (e *Encoder) head(t AttrType, n int) {
	if n > math.MaxUint16 && e.err == nil {
		e.err = fmt.Errorf("%v of %d bytes in a send stream: %w", t, n, fserr.ErrOverflow)
	}
	e.Buf = append(e.Buf, byte(t), byte(t>>8), byte(n), byte(n>>8))
}

// Bytes adds an attribute.
func (e *Encoder) Bytes(t AttrType, v []byte) {
	e.head(t, len(v))
	e.Buf = append(e.Buf, v...)
}

// String adds an attribute: a path, of at most MaxPath bytes.
func (e *Encoder) String(t AttrType, v string) {
	if len(v) > MaxPath && e.err == nil {
		e.err = fmt.Errorf("%v of %d bytes in a send stream, at most %d are possible: %.64q...: %w", t, len(v), MaxPath, v, fserr.ErrNameTooLong)
	}
	e.head(t, len(v))
	e.Buf = append(e.Buf, v...)
}

// Uint64 adds a number of eight bytes.
func (e *Encoder) Uint64(t AttrType, v uint64) {
	e.head(t, 8)
	e.Buf = binary.LittleEndian.AppendUint64(e.Buf, v)
}

// Uint32 adds a number of four bytes.
func (e *Encoder) Uint32(t AttrType, v uint32) {
	e.head(t, 4)
	e.Buf = binary.LittleEndian.AppendUint32(e.Buf, v)
}

// Data adds the data attribute with n bytes that the caller fills in before it seals the command, and returns where in
// Buf they are. Nothing follows it.
func (e *Encoder) Data(n int) (at int) {
	if e.version >= 2 {
		e.Buf = append(e.Buf, byte(AttrData), byte(AttrData>>8))
	} else {
		e.head(AttrData, n)
	}
	at = len(e.Buf)
	if need := at + n; need > cap(e.Buf) {
		e.Buf = append(e.Buf, make([]byte, n)...)
	} else {
		e.Buf = e.Buf[:need]
	}
	return at
}

// End completes the command.
func (e *Encoder) End() {
	if start, end := e.Leave(); e.err == nil {
		Seal(e.Buf[start:end])
	}
}

// Leave completes the command but for its checksum: Seal puts it when the data is there. It returns where in Buf the
// command is.
func (e *Encoder) Leave() (start, end int) {
	if n := len(e.Buf) - e.start; n > maxCommand(e.version) && e.err == nil {
		e.err = fmt.Errorf("command of %d bytes in a send stream of version %d: %w", n, e.version, fserr.ErrOverflow)
	}
	binary.LittleEndian.PutUint32(e.Buf[e.start:], uint32(len(e.Buf)-e.start-cmdSize))
	return e.start, len(e.Buf)
}

// Seal puts the checksum of a whole command, which had none yet.
func Seal(command []byte) {
	binary.LittleEndian.PutUint32(command[6:], 0)
	binary.LittleEndian.PutUint32(command[6:], checksum(0, command))
}
