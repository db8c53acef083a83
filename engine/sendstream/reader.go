package sendstream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"imgtool/engine/fserr"
)

// Reader reads streams that follow one another in one input. It takes from the input exactly what belongs to the
// streams, in two reads a command: give it a bufio.Reader unless somebody else reads what follows. It is for one
// goroutine.
type Reader struct {
	in      io.Reader
	off     int64 // of the next byte
	version uint32
	head    [headerSize]byte
	body    []byte
	cmd     Command
}

// NewReader reads from in. Begin comes first.
func NewReader(in io.Reader) *Reader { return &Reader{in: in} }

// Version is that of the stream last begun.
func (r *Reader) Version() uint32 { return r.version }

// Offset is how many bytes have been read.
func (r *Reader) Offset() int64 { return r.off }

// Begin reads the header of a stream. io.EOF says that the input ends here, so there is none. A version that is not
// known is fserr.ErrNotSup.
func (r *Reader) Begin() error {
	at := r.off
	switch err := r.fill(r.head[:]); {
	case err == io.EOF:
		return err
	case err != nil:
		return r.fault(at, "in the stream's header", err)
	case string(r.head[:len(magic)]) != magic:
		return fmt.Errorf("offset %d: no send stream begins here: %w", at, ErrDamaged)
	}
	r.version = binary.LittleEndian.Uint32(r.head[len(magic):])
	if r.version == 0 || r.version > MaxVersion {
		return fmt.Errorf("offset %d: send stream of version %d, 1 to %d are known: %w", at, r.version, MaxVersion, fserr.ErrNotSup)
	}
	return nil
}

// Next reads the next command; the last of a stream is CmdEnd. The command and its values are valid until the next
// call. After an error the rest cannot be read.
func (r *Reader) Next() (*Command, error) {
	at := r.off
	h := r.head[:cmdSize]
	switch err := r.fill(h); {
	case err == io.EOF:
		return nil, r.fault(at, "before the end command", io.ErrUnexpectedEOF)
	case err != nil:
		return nil, r.fault(at, "in a command's header", err)
	}
	r.cmd.Offset, r.cmd.Cmd = at, Cmd(binary.LittleEndian.Uint16(h[4:]))
	n, sum := binary.LittleEndian.Uint32(h), binary.LittleEndian.Uint32(h[6:])
	if limit := maxCommand(r.version) - cmdSize; uint64(n) > uint64(limit) {
		return nil, r.damaged("%d bytes, at most %d are possible in version %d", n, limit, r.version)
	}
	if uint64(cap(r.body)) < uint64(n) {
		r.body = make([]byte, max(int(n), MaxCommandV1))
	}
	body := r.body[:n]
	if err := r.fill(body); err != nil && n > 0 {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, r.fault(at, "in "+r.cmd.Cmd.String(), err)
	}
	clear(h[6:])
	if have := checksum(checksum(0, h), body); have != sum {
		return nil, r.damaged("checksum %#08x, it should be %#08x", sum, have)
	}
	switch in := r.cmd.Cmd.info(); {
	case in == nil:
		return nil, r.damaged("it is unknown")
	case in.version > r.version:
		return nil, r.damaged("it belongs to version %d and the stream is of version %d", in.version, r.version)
	}
	if err := r.cmd.parse(r.version, body); err != nil {
		return nil, r.damaged("%v", err)
	}
	return &r.cmd, nil
}

// fill reads all of p; io.EOF means that nothing was left.
func (r *Reader) fill(p []byte) error {
	n, err := io.ReadFull(r.in, p)
	r.off += int64(n)
	return err
}

// damaged is a fault of the current command.
func (r *Reader) damaged(format string, args ...any) error {
	return fmt.Errorf("offset %d: %v: %s: %w", r.cmd.Offset, r.cmd.Cmd, fmt.Sprintf(format, args...), ErrDamaged)
}

// fault tells where reading failed. An input that ends too soon is the stream's fault.
func (r *Reader) fault(at int64, where string, err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("offset %d: the stream breaks off %s: %w", at, where, errors.Join(ErrDamaged, io.ErrUnexpectedEOF))
	}
	return fmt.Errorf("offset %d: read %s: %w", at, where, err)
}
