package receive_test

import (
	"encoding/binary"
	"hash/crc32"
	"slices"
	"strings"

	"imgtool/engine/sendstream"
)

// Streams taken apart by their lengths, so that tests can change them in ways that make sense, and put together again with
// good checksums. This does not use package sendstream, whose Writer refuses most of what is wanted here.

const (
	headerLen = 17 // magic and version
	cmdLen    = 10 // length, number, checksum
)

// command is one command. What cannot be taken apart is in rest.
type command struct {
	num    uint16
	attrs  []attr
	rest   []byte
	length *uint32 // what the header says, if that is not so
}

type attr struct {
	typ    uint16
	val    []byte
	length *uint16
}

// parts is a stream in pieces.
type parts struct {
	version uint32
	cmds    []command
	rest    []byte
}

// takeApart never fails: what it does not understand it keeps as it is.
func takeApart(in []byte) *parts {
	p := &parts{version: 1}
	if len(in) < headerLen || string(in[:13]) != "btrfs-stream\x00" {
		p.rest = slices.Clone(in)
		return p
	}
	p.version = binary.LittleEndian.Uint32(in[13:])
	in = in[headerLen:]
	for len(in) >= cmdLen {
		n := uint64(binary.LittleEndian.Uint32(in))
		if n > uint64(len(in)-cmdLen) {
			break
		}
		p.cmds = append(p.cmds, p.command(binary.LittleEndian.Uint16(in[4:]), in[cmdLen:cmdLen+n]))
		in = in[cmdLen+n:]
	}
	p.rest = slices.Clone(in)
	return p
}

func (p *parts) command(num uint16, body []byte) command {
	c := command{num: num}
	for len(body) >= 4 {
		a := attr{typ: binary.LittleEndian.Uint16(body)}
		if a.typ == uint16(sendstream.AttrData) && p.version >= 2 {
			a.val = slices.Clone(body[2:])
			c.attrs = append(c.attrs, a)
			return c
		}
		n := int(binary.LittleEndian.Uint16(body[2:]))
		if n > len(body)-4 {
			break
		}
		a.val = slices.Clone(body[4 : 4+n])
		c.attrs = append(c.attrs, a)
		body = body[4+n:]
	}
	c.rest = slices.Clone(body)
	return c
}

// join puts the stream together. Lengths are what they are unless somebody has set them; checksums are good as far as the
// lengths can be followed.
func (p *parts) join() []byte {
	out := binary.LittleEndian.AppendUint32([]byte("btrfs-stream\x00"), p.version)
	if len(p.cmds) == 0 && p.rest != nil {
		out = nil
	}
	for i := range p.cmds {
		c, start := &p.cmds[i], len(out)
		out = append(out, 0, 0, 0, 0, byte(c.num), byte(c.num>>8), 0, 0, 0, 0)
		for _, a := range c.attrs {
			out = binary.LittleEndian.AppendUint16(out, a.typ)
			if n := uint16(len(a.val)); a.length != nil {
				out = binary.LittleEndian.AppendUint16(out, *a.length)
			} else if a.typ != uint16(sendstream.AttrData) || p.version < 2 {
				out = binary.LittleEndian.AppendUint16(out, n)
			}
			out = append(out, a.val...)
		}
		out = append(out, c.rest...)
		n := uint32(len(out) - start - cmdLen)
		if c.length != nil {
			n = *c.length
		}
		binary.LittleEndian.PutUint32(out[start:], n)
	}
	return mendAll(append(out, p.rest...))
}

// mendAll gives the commands of a stream good checksums, as far as their lengths can be followed, in place.
func mendAll(b []byte) []byte {
	for at := headerLen; at+cmdLen <= len(b); {
		n := uint64(binary.LittleEndian.Uint32(b[at:]))
		if n > uint64(len(b)-at-cmdLen) {
			break
		}
		end := at + cmdLen + int(n)
		mend(b[at:end])
		at = end
	}
	return b
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// mend gives one command its checksum: crc32c without the two inversions that Go's has.
func mend(cmd []byte) {
	clear(cmd[6:10])
	binary.LittleEndian.PutUint32(cmd[6:], ^crc32.Update(^uint32(0), castagnoli, cmd))
}

// Words that attributes are replaced by.
var (
	hardNumbers = []uint64{0, 1, 2, 4095, 4096, 4097, 8192, 1<<17 - 1, 1 << 17, 1<<17 + 1, 1 << 20, 1 << 24, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32,
		1 << 40, 1<<62 - 1, 1 << 62, 1<<63 - 4096, 1<<63 - 1, 1 << 63, 1<<64 - 4096, 1<<64 - 1}
	hardPaths = []string{"", ".", "..", "/", "//", "a/", "/a", "../bystander/x", "../file", "d/../..", "d/./f", "link/x", "f/x", "d", "d/f", "f", "g",
		"o257-7-0", "no", "no/no", strings.Repeat("n", 255), strings.Repeat("n", 256), strings.Repeat("a/", 2048), "\xff\xfe", "a\nb", "user.x", "btrfs.compression",
		"system.posix_acl_access", "security.capability"}
)

// edit changes the stream as a program says, eight bytes a change: what, where, and with what. donors are streams to take
// commands from.
func (p *parts) edit(program []byte, donors []*parts) {
	for ; len(program) >= 8; program = program[8:] {
		if len(p.cmds) == 0 || len(p.cmds) > 4096 {
			return
		}
		var e [8]byte
		copy(e[:], program)
		p.change(e, donors)
	}
}

// change is one step of edit: byte 0 is what, 1 and 2 which command, 3 which attribute, 4 to 7 an argument.
func (p *parts) change(e [8]byte, donors []*parts) {
	i := (int(e[1]) | int(e[2])<<8) % len(p.cmds)
	arg := binary.LittleEndian.Uint32(e[4:])
	other := int(arg>>8) % len(p.cmds)
	c := &p.cmds[i]
	switch e[0] % 20 {
	case 0:
		p.cmds = slices.Delete(p.cmds, i, i+1)
		return
	case 1:
		p.cmds = slices.Insert(p.cmds, other, c.clone())
		return
	case 2:
		p.cmds[i], p.cmds[other] = p.cmds[other], p.cmds[i]
		return
	case 3:
		if d := donors[int(e[7])%len(donors)]; len(d.cmds) > 0 {
			p.cmds = slices.Insert(p.cmds, i, d.cmds[int(arg&0xffff)%len(d.cmds)].clone())
		}
		return
	case 4:
		c.num = uint16(arg)
		return
	case 5:
		c.num = uint16(1 + arg%26)
		return
	case 6:
		n := arg >> (arg & 31)
		c.length = &n
		return
	case 7:
		p.cmds = p.cmds[:i+1]
		return
	case 8:
		p.version = 1 + arg%4
		return
	}
	if len(c.attrs) == 0 {
		return
	}
	p.changeAttr(e, c, int(e[3])%len(c.attrs), arg, &p.cmds[other])
}

func (p *parts) changeAttr(e [8]byte, c *command, i int, arg uint32, other *command) {
	a := &c.attrs[i]
	switch e[0] % 20 {
	case 9, 10:
		a.setNumber(hardNumbers[int(arg)%len(hardNumbers)])
	case 11:
		a.setNumber(a.number() + uint64(int64(int8(arg)))<<(arg>>8&63))
	case 12, 13:
		a.val = []byte(hardPaths[int(arg)%len(hardPaths)])
	case 14:
		if len(a.val) > 0 {
			a.val[int(arg&0xffff)%len(a.val)] ^= byte(arg >> 16)
		}
	case 15:
		n := int(arg&0xffff) % 20000
		for len(a.val) < n {
			a.val = append(a.val, a.val...)
			a.val = append(a.val, byte(arg>>16))
		}
		a.val = a.val[:n]
	case 16:
		c.attrs = slices.Delete(c.attrs, i, i+1)
	case 17:
		if len(other.attrs) > 0 {
			b := other.attrs[int(e[7])%len(other.attrs)]
			c.attrs = slices.Insert(c.attrs, i, attr{typ: b.typ, val: slices.Clone(b.val)})
		}
	case 18: // the value that the same attribute has elsewhere
		for _, b := range other.attrs {
			if b.typ == a.typ {
				a.val = slices.Clone(b.val)
			}
		}
	case 19:
		if n := uint16(arg); arg>>16&1 == 0 {
			a.length = &n
		} else {
			a.typ = n % 40
		}
	}
}

func (c *command) clone() command {
	d := *c
	d.rest, d.attrs = slices.Clone(c.rest), nil
	for _, a := range c.attrs {
		a.val = slices.Clone(a.val)
		d.attrs = append(d.attrs, a)
	}
	return d
}

// get returns an attribute, an empty one if there is none.
func (c *command) get(t sendstream.AttrType) *attr {
	for i := range c.attrs {
		if c.attrs[i].typ == uint16(t) {
			return &c.attrs[i]
		}
	}
	return &attr{}
}

func (a *attr) number() uint64 {
	var b [8]byte
	copy(b[:], a.val)
	return binary.LittleEndian.Uint64(b[:])
}

// setNumber keeps the size that the value has.
func (a *attr) setNumber(v uint64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], v)
	copy(a.val, b[:])
}
