package sendtest

import (
	"bytes"
	"encoding/binary"
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

// TestCompare holds the comparison to what it accepts, exactly, and shows that it sees the rest.
func TestCompare(t *testing.T) {
	type list = []sendstream.Command
	for name, c := range map[string]struct {
		kernels, ours list
		want          likeness
	}{
		"the same":                      {list{write("f", 0, "abcd")}, list{write("f", 0, "abcd")}, sameBytes},
		"a write in two pieces":         {list{write("f", 0, "abcd")}, list{write("f", 0, "ab"), write("f", 2, "cd")}, sameRanges},
		"cloned in place of written":    {list{write("f", 0, "abcd")}, list{clone("f", 0, 4)}, sameRanges},
		"a shorter write":               {list{write("f", 0, "abcd")}, list{write("f", 0, "abc")}, different},
		"a write elsewhere":             {list{write("f", 0, "abcd")}, list{write("f", 1, "abcd")}, different},
		"a gap between pieces":          {list{write("f", 0, "abcd")}, list{write("f", 0, "ab"), write("f", 3, "d")}, different},
		"another file":                  {list{write("f", 0, "abcd")}, list{write("e", 0, "abcd")}, different},
		"a command less":                {list{chmod("f", 1), write("f", 0, "a")}, list{write("f", 0, "a")}, different},
		"a command twice":               {list{chmod("f", 1)}, list{chmod("f", 1), chmod("f", 1)}, different},
		"another value":                 {list{chmod("f", 1)}, list{chmod("f", 2)}, different},
		"another order":                 {list{chmod("f", 1), chmod("g", 1)}, list{chmod("g", 1), chmod("f", 1)}, different},
		"size behind inline, forgotten": {list{encoded("f", 0, 100), chmod("f", 1)}, list{encoded("f", 0, 100), truncate("f", 2000), chmod("f", 1)}, shortInline},
		"data behind inline, forgotten": {list{encoded("f", 0, 100)}, list{encoded("f", 0, 100), write("f", 100, "00")}, shortInline},
		"size behind a whole sector":    {list{encoded("f", 0, 4096)}, list{encoded("f", 0, 4096), truncate("f", 2000)}, different},
		"size of another file":          {list{encoded("f", 0, 100)}, list{encoded("f", 0, 100), truncate("g", 2000)}, different},
		"mode behind inline":            {list{encoded("f", 0, 100), chmod("f", 1)}, list{encoded("f", 0, 100), truncate("f", 2000)}, different},
	} {
		if got, where := compare(t, streamOf(t, c.ours), streamOf(t, c.kernels)); got != c.want {
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
