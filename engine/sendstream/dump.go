package sendstream

import (
	"bufio"
	"fmt"
	"io"
	"time"
)

// Dumper prints commands as `btrfs receive --dump` of btrfs-progs 6.14 does: a line each, none for CmdEnd.
type Dumper struct {
	out  *bufio.Writer
	loc  *time.Location
	top  string // "./" and the current subvolume's name
	text []byte
}

// NewDumper prints to out, with times in loc (time.Local as btrfs does). Flush comes last.
func NewDumper(out io.Writer, loc *time.Location) *Dumper {
	return &Dumper{out: bufio.NewWriter(out), loc: loc, top: "."}
}

// Flush writes what is left and returns the first error of writing.
func (d *Dumper) Flush() error { return d.out.Flush() }

// Print prints one command that a Reader has returned.
func (d *Dumper) Print(c *Command) error {
	path := c.String(AttrPath)
	switch c.Cmd {
	case CmdEnd:
		return nil
	case CmdSubvol, CmdSnapshot:
		d.top = "./" + path
		path = d.top
	default:
		path = d.top + "/" + path
	}
	fmt.Fprintf(d.out, "%-16s", c.Cmd)
	d.text = escape(d.text[:0], path)
	width := len(d.text)
	d.out.Write(d.text)
	if d.text = d.arguments(d.text[:0], c); len(d.text) > 0 {
		fmt.Fprintf(d.out, "%*s%s", max(1, 32-width), "", d.text)
	}
	return d.out.WriteByte('\n')
}

// arguments appends what stands behind the path.
func (d *Dumper) arguments(b []byte, c *Command) []byte {
	switch c.Cmd {
	case CmdSubvol, CmdSnapshot:
		b = fmt.Appendf(b, "uuid=%s transid=%d", uuid(c, AttrUUID), c.Uint(AttrCTransID))
		if c.Cmd == CmdSnapshot {
			b = fmt.Appendf(b, " parent_uuid=%s parent_transid=%d", uuid(c, AttrCloneUUID), c.Uint(AttrCloneCTransID))
		}
	case CmdMknod:
		b = fmt.Appendf(b, "mode=%o dev=0x%x", c.Uint(AttrMode), c.Uint(AttrRdev))
	case CmdRename:
		b = escape(append(b, "dest="...), d.top+"/"+c.String(AttrPathTo))
	case CmdLink, CmdSymlink:
		b = escape(append(b, "dest="...), c.String(AttrPathLink))
	case CmdSetXattr:
		b = escape(append(b, "name="...), c.String(AttrXattrName))
		b = fmt.Appendf(escape(append(b, ' '), c.String(AttrXattrData)), " len=%d", len(c.Bytes(AttrXattrData)))
	case CmdRemoveXattr:
		b = escape(append(b, "name="...), c.String(AttrXattrName))
	case CmdClone:
		b = fmt.Appendf(b, "offset=%d len=%d from=", c.Uint(AttrFileOffset), c.Uint(AttrCloneLen))
		b = fmt.Appendf(escape(b, d.top+"/"+c.String(AttrClonePath)), " clone_offset=%d", c.Uint(AttrCloneOffset))
	case CmdTruncate:
		b = fmt.Appendf(b, "size=%d", c.Uint(AttrSize))
	case CmdChmod:
		b = fmt.Appendf(b, "mode=%o", c.Uint(AttrMode))
	case CmdChown:
		b = fmt.Appendf(b, "gid=%d uid=%d", c.Uint(AttrGID), c.Uint(AttrUID))
	case CmdUtimes:
		b = fmt.Appendf(b, "atime=%s mtime=%s ctime=%s", d.time(c, AttrATime), d.time(c, AttrMTime), d.time(c, AttrCTime))
	case CmdFallocate:
		b = fmt.Appendf(b, "mode=%d offset=%d len=%d", int32(c.Uint(AttrFallocateMode)), c.Uint(AttrFileOffset), c.Uint(AttrSize))
	case CmdFileattr:
		b = fmt.Appendf(b, "fileattr=0x%d", c.Uint(AttrFileattr)) // decimal behind 0x: so btrfs prints it
	case CmdWrite:
		b = fmt.Appendf(b, "offset=%d len=%d", c.Uint(AttrFileOffset), len(c.Bytes(AttrData)))
	case CmdUpdateExtent:
		b = fmt.Appendf(b, "offset=%d len=%d", c.Uint(AttrFileOffset), c.Uint(AttrSize))
	case CmdEncodedWrite:
		b = fmt.Appendf(b, "offset=%d len=%d unencoded_file_len=%d unencoded_len=%d unencoded_offset=%d compression=%d encryption=%d",
			c.Uint(AttrFileOffset), len(c.Bytes(AttrData)), c.Uint(AttrUnencodedFileLen), c.Uint(AttrUnencodedLen),
			c.Uint(AttrUnencodedOffset), c.Uint(AttrCompression), c.Uint(AttrEncryption))
	case CmdEnableVerity:
		b = fmt.Appendf(b, "algorithm=%d block_size=%d salt_len=%d sig_len=%d", c.Uint(AttrVerityAlgorithm),
			c.Uint(AttrVerityBlockSize), len(c.Bytes(AttrVeritySalt)), len(c.Bytes(AttrVeritySig)))
	}
	return b
}

func (d *Dumper) time(c *Command, t AttrType) string {
	sec, nsec := c.Time(t)
	return time.Unix(sec, int64(nsec)).In(d.loc).Format("2006-01-02T15:04:05-0700")
}

func uuid(c *Command, t AttrType) string {
	u := c.UUID(t)
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

var escapes = map[byte]string{'\a': `\a`, '\b': `\b`, 0x1b: `\e`, '\f': `\f`, '\n': `\n`, '\r': `\r`, '\t': `\t`, '\v': `\v`,
	' ': `\ `, '\\': `\\`}

// escape appends a text with blanks and whatever is no printable ASCII escaped.
func escape(b []byte, s string) []byte {
	for i := range len(s) {
		switch e, ok := escapes[s[i]]; {
		case ok:
			b = append(b, e...)
		case s[i] < ' ' || s[i] > '~':
			b = fmt.Appendf(b, `\%03o`, s[i])
		default:
			b = append(b, s[i])
		}
	}
	return b
}
