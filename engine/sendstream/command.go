package sendstream

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Attr is one attribute of a command.
type Attr struct {
	Type  AttrType
	Value []byte
}

// Command is one command with its attributes in the stream's order. What a Reader returns has all attributes that the
// command needs, none twice, each of its size; so the accessors below give zero only for those that may be missing.
type Command struct {
	Cmd    Cmd
	Offset int64 // in the input, of its first byte; 0 for one that was not read
	Attrs  []Attr
}

// Get returns the value of an attribute, and whether it is there. It is valid as long as the command.
func (c *Command) Get(t AttrType) ([]byte, bool) {
	for i := range c.Attrs {
		if c.Attrs[i].Type == t {
			return c.Attrs[i].Value, true
		}
	}
	return nil, false
}

// Bytes returns a value, nil if it is missing.
func (c *Command) Bytes(t AttrType) []byte {
	b, _ := c.Get(t)
	return b
}

// String returns a value as a string, which it copies. A link's target comes without the NUL that it may have at its end.
func (c *Command) String(t AttrType) string {
	v := c.Bytes(t)
	if t == AttrPathLink {
		v = withoutNUL(v)
	}
	return string(v)
}

// withoutNUL takes one NUL from the end of a link's target. The kernel sends the target as the inode holds it, and
// mkfs.btrfs --rootdir stores it with the NUL; btrfs receive, which is written in C, does not notice.
func withoutNUL(target []byte) []byte { return bytes.TrimSuffix(target, []byte{0}) }

// Uint returns a number of any size up to eight bytes, 0 if it is missing.
func (c *Command) Uint(t AttrType) uint64 {
	var b [8]byte
	copy(b[:], c.Bytes(t))
	return binary.LittleEndian.Uint64(b[:])
}

// UUID returns a UUID.
func (c *Command) UUID(t AttrType) (u [16]byte) {
	copy(u[:], c.Bytes(t))
	return u
}

// Time returns a time stamp as seconds and nanoseconds (below 1e9).
func (c *Command) Time(t AttrType) (sec int64, nsec uint32) {
	var b [12]byte
	copy(b[:], c.Bytes(t))
	return int64(binary.LittleEndian.Uint64(b[:])), binary.LittleEndian.Uint32(b[8:])
}

// parse takes a command's body apart. Values point into body.
func (c *Command) parse(version uint32, body []byte) error {
	c.Attrs = c.Attrs[:0]
	for rest := body; len(rest) > 0; {
		a, n, err := parseAttr(version, rest)
		if err != nil {
			return fmt.Errorf("attribute at byte %d: %w", cmdSize+len(body)-len(rest), err)
		}
		if _, twice := c.Get(a.Type); twice {
			return fmt.Errorf("%v is there twice", a.Type)
		}
		c.Attrs = append(c.Attrs, a)
		rest = rest[n:]
	}
	in := c.Cmd.info()
	for _, t := range in.needs {
		if _, ok := c.Get(t); !ok {
			return fmt.Errorf("no %v", t)
		}
	}
	return nil
}

// parseAttr reads the attribute at the start of b, which is not empty, and returns how long it is in all.
func parseAttr(version uint32, b []byte) (Attr, int, error) {
	if len(b) < 2 {
		return Attr{}, 0, fmt.Errorf("one byte is too short for it")
	}
	a := Attr{Type: AttrType(binary.LittleEndian.Uint16(b))}
	if a.Type == 0 {
		return a, 0, fmt.Errorf("type 0")
	}
	if a.Type == AttrData && version >= 2 {
		a.Value = b[2:]
		return a, len(b), nil
	}
	if len(b) < tlvSize {
		return a, 0, fmt.Errorf("%v has no length", a.Type)
	}
	n := int(binary.LittleEndian.Uint16(b[2:]))
	if n > len(b)-tlvSize {
		return a, 0, fmt.Errorf("%v of %d bytes, %d are left", a.Type, n, len(b)-tlvSize)
	}
	a.Value = b[tlvSize : tlvSize+n]
	return a, tlvSize + n, a.check()
}

// check refuses values that are none of their type.
func (a *Attr) check() error {
	if want := a.Type.info().size; want != 0 && len(a.Value) != want {
		return fmt.Errorf("%v of %d bytes, it has %d", a.Type, len(a.Value), want)
	}
	switch a.Type {
	case AttrPath, AttrPathTo, AttrPathLink, AttrClonePath, AttrXattrName:
		v := a.Value
		if a.Type == AttrPathLink {
			v = withoutNUL(v)
		}
		if bytes.IndexByte(v, 0) >= 0 {
			return fmt.Errorf("%v with a NUL in it", a.Type)
		}
	case AttrATime, AttrMTime, AttrCTime, AttrOTime:
		if ns := binary.LittleEndian.Uint32(a.Value[8:]); ns >= 1e9 {
			return fmt.Errorf("%v with %d nanoseconds", a.Type, ns)
		}
	}
	return nil
}
