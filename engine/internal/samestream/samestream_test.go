package samestream

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"imgtool/engine/sendstream"
)

// cmd is a command with a path and attributes, in pairs of type and value.
func cmd(c sendstream.Cmd, path string, attrs ...any) sendstream.Command {
	out := sendstream.Command{Cmd: c, Attrs: []sendstream.Attr{{Type: sendstream.AttrPath, Value: []byte(path)}}}
	for i := 0; i < len(attrs); i += 2 {
		var v []byte
		switch a := attrs[i+1].(type) {
		case int:
			v = binary.LittleEndian.AppendUint64(nil, uint64(a))
		case string:
			v = []byte(a)
		}
		out.Attrs = append(out.Attrs, sendstream.Attr{Type: attrs[i].(sendstream.AttrType), Value: v})
	}
	return out
}

func write(path string, off int, data string) sendstream.Command {
	return cmd(sendstream.CmdWrite, path, sendstream.AttrFileOffset, off, sendstream.AttrData, data)
}

func clone(path string, off, n int) sendstream.Command {
	return cmd(sendstream.CmdClone, path, sendstream.AttrFileOffset, off, sendstream.AttrCloneLen, n,
		sendstream.AttrCloneUUID, "0123456789abcdef", sendstream.AttrCloneCTransID, 7, sendstream.AttrClonePath, "g", sendstream.AttrCloneOffset, 0)
}

func encoded(path string, off, n int) sendstream.Command {
	return cmd(sendstream.CmdEncodedWrite, path, sendstream.AttrFileOffset, off, sendstream.AttrUnencodedFileLen, n,
		sendstream.AttrUnencodedLen, 4096, sendstream.AttrUnencodedOffset, 0, sendstream.AttrCompression, "\x01\x00\x00\x00",
		sendstream.AttrEncryption, "\x00\x00\x00\x00", sendstream.AttrData, "frame")
}

func truncate(path string, n int) sendstream.Command {
	return cmd(sendstream.CmdTruncate, path, sendstream.AttrSize, n)
}

func chmod(path string, mode int) sendstream.Command {
	return cmd(sendstream.CmdChmod, path, sendstream.AttrMode, mode)
}

func chown(path string, uid int) sendstream.Command {
	return cmd(sendstream.CmdChown, path, sendstream.AttrUID, uid, sendstream.AttrGID, 0)
}

func mkfile(path string) sendstream.Command {
	return cmd(sendstream.CmdMkfile, path, sendstream.AttrIno, 300)
}

func setACL(path, value string) sendstream.Command {
	return cmd(sendstream.CmdSetXattr, path, sendstream.AttrXattrName, "system.posix_acl_default", sendstream.AttrXattrData, value)
}

func utimes(path string) sendstream.Command {
	at := string(make([]byte, 12))
	return cmd(sendstream.CmdUtimes, path, sendstream.AttrATime, at, sendstream.AttrMTime, at, sendstream.AttrCTime, at)
}

func noACL(path string) sendstream.Command {
	return cmd(sendstream.CmdRemoveXattr, path, sendstream.AttrXattrName, "system.posix_acl_default")
}

// TestCompare holds the comparison to what it accepts, exactly, and shows that it sees the rest.
func TestCompare(t *testing.T) {
	type list = []sendstream.Command
	for name, c := range map[string]struct {
		kernels, ours list
		want          Likeness
	}{
		"the same":                      {list{write("f", 0, "abcd")}, list{write("f", 0, "abcd")}, SameBytes},
		"a write in two pieces":         {list{write("f", 0, "abcd")}, list{write("f", 0, "ab"), write("f", 2, "cd")}, SameRanges},
		"the sector of an old end":      {list{truncate("f", 9000)}, list{write("f", 4096, strings.Repeat("x", 4096)), truncate("f", 9000)}, OldEnd},
		"the end of an old end":         {list{truncate("f", 4100)}, list{write("f", 4096, "abcd"), truncate("f", 4100)}, OldEnd},
		"more than a sector":            {list{truncate("f", 9000)}, list{write("f", 0, strings.Repeat("x", 4097)), truncate("f", 9000)}, Different},
		"not at a sector":               {list{truncate("f", 9000)}, list{write("f", 1, "abc"), truncate("f", 9000)}, Different},
		"two sectors of a file":         {list{truncate("f", 9000)}, list{write("f", 0, "abc"), truncate("f", 9000), write("f", 4096, "a")}, Different},
		"cloned in place of written":    {list{write("f", 0, "abcd")}, list{clone("f", 0, 4)}, SameRanges},
		"an end cut off to be cloned":   {list{write("f", 0, "abcd"), truncate("f", 4), clone("f", 4, 2)}, list{write("f", 0, "abcdef")}, SameRanges},
		"cut off elsewhere":             {list{write("f", 0, "abcd"), truncate("f", 3), clone("f", 4, 2)}, list{write("f", 0, "abcdef")}, Different},
		"cut off for another file":      {list{write("f", 0, "abcd"), truncate("g", 4), clone("f", 4, 2)}, list{write("f", 0, "abcdef")}, Different},
		"cut off at the end":            {list{write("f", 0, "abcd"), truncate("f", 4)}, list{write("f", 0, "abcd")}, Different},
		"a shorter write":               {list{write("f", 0, "abcd")}, list{write("f", 0, "abc")}, Different},
		"a write elsewhere":             {list{write("f", 0, "abcd")}, list{write("f", 1, "abcd")}, Different},
		"a gap between pieces":          {list{write("f", 0, "abcd")}, list{write("f", 0, "ab"), write("f", 3, "d")}, Different},
		"another file":                  {list{write("f", 0, "abcd")}, list{write("e", 0, "abcd")}, Different},
		"a command less":                {list{chmod("f", 1), write("f", 0, "a")}, list{write("f", 0, "a")}, Different},
		"a command twice":               {list{chmod("f", 1)}, list{chmod("f", 1), chmod("f", 1)}, Different},
		"another value":                 {list{chmod("f", 1)}, list{chmod("f", 2)}, Different},
		"another order":                 {list{chmod("f", 1), chmod("g", 1)}, list{chmod("g", 1), chmod("f", 1)}, Different},
		"size behind inline, forgotten": {list{encoded("f", 0, 100), chmod("f", 1)}, list{encoded("f", 0, 100), truncate("f", 2000), chmod("f", 1)}, ShortInline},
		"data behind inline, forgotten": {list{encoded("f", 0, 100)}, list{encoded("f", 0, 100), write("f", 100, "00")}, ShortInline},
		"size behind a whole sector":    {list{encoded("f", 0, 4096)}, list{encoded("f", 0, 4096), truncate("f", 2000)}, Different},
		"size of another file":          {list{encoded("f", 0, 100)}, list{encoded("f", 0, 100), truncate("g", 2000)}, Different},
		"mode behind inline":            {list{encoded("f", 0, 100), chmod("f", 1)}, list{encoded("f", 0, 100), truncate("f", 2000)}, Different},
		"bits behind a new owner":       {list{chown("f", 1)}, list{chown("f", 1), chmod("f", 0o4755)}, SetIDs},
		"as before, and something else": {list{chown("f", 1), chmod("g", 1)}, list{chown("f", 1), chmod("f", 0o4755)}, Different},
		"no bits behind a new owner":    {list{chown("f", 1)}, list{chown("f", 1), chmod("f", 0o755)}, Different},
		"bits of another file":          {list{chown("f", 1)}, list{chown("f", 1), chmod("g", 0o4755)}, Different},
		"bits without a new owner":      {list{write("f", 0, "a")}, list{write("f", 0, "a"), chmod("f", 0o4755)}, Different},
		"the top's ACL last":            {list{setACL("", "x"), mkfile("f")}, list{mkfile("f"), setACL("", "x")}, TopLast},
		"the top's ACL last, another":   {list{setACL("", "x"), mkfile("f")}, list{mkfile("f"), setACL("", "y")}, Different},
		"the top's ACL first":           {list{setACL("", "x"), mkfile("f")}, list{setACL("", "x"), mkfile("f")}, SameBytes},
		"the top's ACL before the last": {list{setACL("", "x"), mkfile("f"), mkfile("g")}, list{mkfile("f"), setACL("", "x"), mkfile("g")}, Different},
		"another's ACL last":            {list{setACL("d", "x"), mkfile("f")}, list{mkfile("f"), setACL("d", "x")}, Different},
		"the top's ACL away and back":   {list{mkfile("f")}, list{noACL(""), mkfile("f"), setACL("", "x")}, TopLast},
		"the top's ACL away":            {list{mkfile("f")}, list{noACL(""), mkfile("f")}, Different},
		"the top's ACL, and no other":   {list{mkfile("f")}, list{mkfile("f"), setACL("", "x")}, Different},
		"the top's ACL to go":           {list{mkfile("f"), noACL("")}, list{noACL(""), mkfile("f")}, TopLast},
		"times of one that is gone":     {list{utimes("o1-2-0"), chmod("f", 1)}, list{chmod("f", 1)}, GoneTimes},
		"times of one that is not":      {list{utimes("f"), chmod("f", 1)}, list{chmod("f", 1)}, Different},
		"times of one below":            {list{utimes("d/o1-2-0"), chmod("f", 1)}, list{chmod("f", 1)}, Different},
		"times of ours that is gone":    {list{chmod("f", 1)}, list{utimes("o1-2-0"), chmod("f", 1)}, Different},
		"another order with a temp":     {list{utimes("o1-2-0"), chmod("f", 1)}, list{chmod("f", 1), utimes("o1-2-0")}, Different},
		"the top's ACL stays":           {list{mkfile("f"), noACL("")}, list{noACL(""), mkfile("f"), setACL("", "x")}, Different},
	} {
		if got, where := Compare(t, streamOf(t, c.ours), streamOf(t, c.kernels)); got != c.want {
			t.Errorf("%s: %v, want %v\n%s", name, got, c.want, where)
		}
	}
}

func streamOf(t *testing.T, list []sendstream.Command) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := sendstream.NewWriter(&out, 2)
	must(t, err)
	must(t, w.Header())
	for i := range list {
		must(t, w.Command(&list[i]))
	}
	must(t, w.Command(&sendstream.Command{Cmd: sendstream.CmdEnd}))
	return out.Bytes()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
