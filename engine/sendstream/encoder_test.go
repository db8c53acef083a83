package sendstream_test

import (
	"bytes"
	"errors"
	"testing"

	"imgtool/engine/fserr"
	"imgtool/engine/sendstream"
)

// TestEncoder encodes what the Writer writes, also when the data comes last and later.
func TestEncoder(t *testing.T) {
	data := bytes.Repeat([]byte("data"), 3000)
	for version := uint32(1); version <= 2; version++ {
		var want bytes.Buffer
		w, err := sendstream.NewWriter(&want, version)
		if err != nil {
			t.Fatal(err)
		}
		e, err := sendstream.NewEncoder(version)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			_ = w.Header()
			w.Begin(sendstream.CmdWrite)
			w.String(sendstream.AttrPath, "a/file")
			w.Uint(sendstream.AttrFileOffset, 4096)
			w.Bytes(sendstream.AttrData, data)
			_ = w.End()
			w.Begin(sendstream.CmdSetXattr)
			w.String(sendstream.AttrPath, "a/file")
			w.String(sendstream.AttrXattrName, "user.a")
			w.Bytes(sendstream.AttrXattrData, nil)
			if err := w.End(); err != nil {
				t.Fatal(err)
			}

			e.Header()
			e.Begin(sendstream.CmdWrite)
			e.String(sendstream.AttrPath, "a/file")
			e.Uint64(sendstream.AttrFileOffset, 4096)
			at := e.Data(len(data))
			start, end := e.Leave()
			e.Begin(sendstream.CmdSetXattr)
			e.String(sendstream.AttrPath, "a/file")
			e.String(sendstream.AttrXattrName, "user.a")
			e.Bytes(sendstream.AttrXattrData, nil)
			e.End()
			copy(e.Buf[at:], data)
			sendstream.Seal(e.Buf[start:end])
		}
		if e.Err() != nil || !bytes.Equal(e.Buf, want.Bytes()) {
			t.Errorf("version %d: %v, %d bytes encoded, %d written", version, e.Err(), len(e.Buf), want.Len())
		}
	}
}

// TestEncoderRefuses has what a version or an attribute does not hold.
func TestEncoderRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		encode func(e *sendstream.Encoder)
		want   error
	}{
		"command of version 2": {func(e *sendstream.Encoder) { e.Begin(sendstream.CmdFallocate) }, fserr.ErrNotSup},
		"long attribute":       {func(e *sendstream.Encoder) { e.Bytes(sendstream.AttrXattrData, make([]byte, 1<<16)) }, fserr.ErrOverflow},
		"long command": {func(e *sendstream.Encoder) {
			e.Begin(sendstream.CmdWrite)
			e.String(sendstream.AttrPath, string(make([]byte, sendstream.MaxPath)))
			e.Data(64 << 10)
			e.End()
		}, fserr.ErrOverflow},
		"long path": {func(e *sendstream.Encoder) {
			e.String(sendstream.AttrPathTo, string(make([]byte, sendstream.MaxPath+1)))
		}, fserr.ErrNameTooLong},
	} {
		e, err := sendstream.NewEncoder(1)
		if err != nil {
			t.Fatal(err)
		}
		if c.encode(e); !errors.Is(e.Err(), c.want) {
			t.Errorf("%s: %v, want %v", name, e.Err(), c.want)
		}
	}
	for _, version := range []uint32{0, sendstream.MaxVersion + 1} {
		if _, err := sendstream.NewEncoder(version); !errors.Is(err, fserr.ErrNotSup) {
			t.Errorf("version %d: %v", version, err)
		}
	}
}
