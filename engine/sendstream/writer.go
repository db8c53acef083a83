package sendstream

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"imgtool/engine/fserr"
)

// Writer writes streams, one Write a command. A command is Begin, attributes, and End; AttrData comes last. The first
// error stays and is what every later End returns. It is for one goroutine.
type Writer struct {
	out     io.Writer
	version uint32
	buf     []byte
	err     error
}

// NewWriter writes streams of a version, 1 to MaxVersion.
func NewWriter(out io.Writer, version uint32) (*Writer, error) {
	if version == 0 || version > MaxVersion {
		return nil, fmt.Errorf("send stream of version %d, 1 to %d are known: %w", version, MaxVersion, fserr.ErrNotSup)
	}
	return &Writer{out: out, version: version}, nil
}

// Header writes the header of a stream.
func (w *Writer) Header() error {
	w.buf = binary.LittleEndian.AppendUint32(append(w.buf[:0], magic...), w.version)
	return w.flush()
}

// Begin starts a command.
func (w *Writer) Begin(c Cmd) {
	w.buf = append(w.buf[:0], make([]byte, cmdSize)...)
	binary.LittleEndian.PutUint16(w.buf[4:], uint16(c))
	if in := c.info(); w.err == nil && (in == nil || in.version > w.version) {
		w.err = fmt.Errorf("%v in a send stream of version %d: %w", c, w.version, fserr.ErrNotSup)
	}
}

// Bytes adds an attribute. From version 2 on AttrData must be the command's last one.
func (w *Writer) Bytes(t AttrType, v []byte) {
	w.head(t, len(v))
	w.buf = append(w.buf, v...)
}

// String adds an attribute.
func (w *Writer) String(t AttrType, v string) {
	w.head(t, len(v))
	w.buf = append(w.buf, v...)
}

// Uint adds a number in the size that the attribute has.
func (w *Writer) Uint(t AttrType, v uint64) {
	n := t.info().size
	if w.err == nil && (n == 0 || n > 8 || n < 8 && v>>(8*n) != 0) {
		w.err = fmt.Errorf("internal: %v of a send stream cannot be %d", t, v)
		return
	}
	w.head(t, n)
	w.buf = binary.LittleEndian.AppendUint64(w.buf, v)[:len(w.buf)+n]
}

// Time adds a time stamp; nsec is below 1e9.
func (w *Writer) Time(t AttrType, sec int64, nsec uint32) {
	w.head(t, 12)
	w.buf = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint64(w.buf, uint64(sec)), nsec)
}

func (w *Writer) head(t AttrType, n int) {
	w.buf = binary.LittleEndian.AppendUint16(w.buf, uint16(t))
	if t == AttrData && w.version >= 2 {
		return
	}
	if n > math.MaxUint16 && w.err == nil {
		w.err = fmt.Errorf("%v of %d bytes in a send stream: %w", t, n, fserr.ErrOverflow)
	}
	w.buf = binary.LittleEndian.AppendUint16(w.buf, uint16(n))
}

// End writes the command that Begin started.
func (w *Writer) End() error {
	if n := len(w.buf); n > maxCommand(w.version) && w.err == nil {
		w.err = fmt.Errorf("command of %d bytes in a send stream of version %d: %w", n, w.version, fserr.ErrOverflow)
	}
	if w.err != nil {
		return w.err
	}
	binary.LittleEndian.PutUint32(w.buf, uint32(len(w.buf)-cmdSize))
	binary.LittleEndian.PutUint32(w.buf[6:], 0)
	binary.LittleEndian.PutUint32(w.buf[6:], checksum(0, w.buf))
	return w.flush()
}

func (w *Writer) flush() error {
	if w.err == nil {
		_, w.err = w.out.Write(w.buf)
	}
	return w.err
}

// Command writes a whole command: one that a Reader has read becomes the same bytes again.
func (w *Writer) Command(c *Command) error {
	w.Begin(c.Cmd)
	for _, a := range c.Attrs {
		w.Bytes(a.Type, a.Value)
	}
	return w.End()
}
