package inode_test

import (
	"bytes"
	"compress/zlib"
	"errors"
	"math"
	"testing"

	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/ondisk"
)

func deflate(t *testing.T, plain []byte) []byte {
	var out bytes.Buffer
	z := zlib.NewWriter(&out)
	if _, err := z.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestWriteEncoded stores compressed frames in every place of a file and compares with a model of its bytes, and checks
// that they are what lies on disk.
func TestWriteEncoded(t *testing.T) {
	for _, holes := range []bool{false, true} {
		im := newImage(t, 256<<20, nil)
		tree, ctx := im.top(), t.Context()
		plain := bytes.Repeat([]byte("0123456789abcdef"), 128<<10/16)
		frame := deflate(t, plain)
		ino, err := tree.Create(ctx, inode.RootDir, "f", inode.Attr{Mode: 0o644})
		if err != nil {
			t.Fatal(err)
		}
		var model []byte
		if !holes { // the file begins with an inline extent
			model = []byte("short")
			if _, err := tree.WriteAt(ctx, ino, model, 0); err != nil {
				t.Fatal(err)
			}
		}
		for _, e := range []inode.Encoded{
			{Off: 8192, Len: 128 << 10, RAMLen: 128 << 10},                     // behind a hole
			{Off: 136 << 10, Len: 5000, RAMLen: 128 << 10},                     // its front, to an end within a sector
			{Off: 160 << 10, Len: 20000, RAMLen: 128 << 10, RAMOff: 8192},      // its middle, behind another hole
			{Off: 4096, Len: 16384, RAMLen: 128 << 10, RAMOff: 112 << 10},      // its rear, over others
			{Off: 160 << 10, Len: 128 << 10, RAMLen: 128 << 10, RAMOff: 0},     // over all of one, and on
			{Off: 300 << 10, Len: 100, RAMLen: 100000, RAMOff: 4096},           // a frame that holds more than is wanted
			{Off: 300 << 10, Len: 100000 - 4096, RAMLen: 100000, RAMOff: 4096}, // to the frame's unaligned end
		} {
			e.Algorithm = ondisk.CompressZlib
			if err := tree.WriteEncoded(ctx, ino, e, frame); err != nil {
				t.Fatalf("%+v: %v", e, err)
			}
			if end := int(e.Off + e.Len); len(model) < end {
				model = append(model, make([]byte, end-len(model))...)
			}
			copy(model[e.Off:e.Off+e.Len], plain[e.RAMOff:])
			got := make([]byte, len(model)+1)
			if n, _ := tree.ReadAt(ctx, ino, got, 0); n != len(model) || !bytes.Equal(got[:n], model) {
				t.Fatalf("%+v: %d bytes of %d, or other ones", e, n, len(model))
			}
		}
		kept := 0
		if err := tree.Extents(ctx, ino, 0, math.MaxInt64, func(e inode.Extent) (bool, error) {
			if e.Compression == ondisk.CompressZlib && e.DiskLen == 4096 {
				kept++
			}
			return true, nil
		}); err != nil || kept < 5 {
			t.Errorf("%d compressed extents: %v", kept, err)
		}
		if err := im.fs.Commit(ctx); err != nil {
			t.Fatal(err)
		}
		if err := im.fs.Close(); err != nil {
			t.Fatal(err)
		}
		oracle.Check(t, im.file())
	}
}

// TestWriteEncodedRefused: what cannot be such an extent changes nothing.
func TestWriteEncodedRefused(t *testing.T) {
	im := newImage(t, 256<<20, nil)
	tree, ctx := im.top(), t.Context()
	good := inode.Encoded{Len: 8192, RAMLen: 8192, Algorithm: ondisk.CompressZlib}
	frame := deflate(t, make([]byte, 8192))
	ino, err := tree.Create(ctx, inode.RootDir, "f", inode.Attr{Mode: 0o644})
	if err == nil {
		_, err = tree.WriteAt(ctx, ino, make([]byte, 20000), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	nocow, err := tree.Create(ctx, inode.RootDir, "nocow", inode.Attr{Mode: 0o644, Flags: ondisk.InodeNoDataCow | ondisk.InodeNoDataSum})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(e *inode.Encoded)
		frame  []byte
		ino    ondisk.ObjectID
	}{
		"offset within a sector": {func(e *inode.Encoded) { e.Off = 100 }, frame, ino},
		"negative offset":        {func(e *inode.Encoded) { e.Off = -4096 }, frame, ino},
		"end within the file":    {func(e *inode.Encoded) { e.Len = 5000 }, frame, ino},
		"nothing":                {func(e *inode.Encoded) { e.Len = 0 }, frame, ino},
		"frame offset":           {func(e *inode.Encoded) { e.RAMOff, e.Len = 100, 4096 }, frame, ino},
		"behind the frame":       {func(e *inode.Encoded) { e.RAMOff = 4096 }, frame, ino},
		"far behind the frame":   {func(e *inode.Encoded) { e.RAMOff = 1 << 63 }, frame, ino},
		"unpacks to too much":    {func(e *inode.Encoded) { e.RAMLen = 128<<10 + 1 }, frame, ino},
		"no frame":               {func(e *inode.Encoded) {}, nil, ino},
		"saves nothing":          {func(e *inode.Encoded) {}, make([]byte, 4097), ino},
		"frame too long":         {func(e *inode.Encoded) {}, make([]byte, 128<<10+1), ino},
		"no algorithm":           {func(e *inode.Encoded) { e.Algorithm = 0 }, frame, ino},
		"unknown algorithm":      {func(e *inode.Encoded) { e.Algorithm = 4 }, frame, ino},
		"file without checksums": {func(e *inode.Encoded) {}, frame, nocow},
	} {
		e := good
		c.change(&e)
		if err := tree.WriteEncoded(ctx, c.ino, e, c.frame); !errors.Is(err, fserr.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := tree.WriteEncoded(ctx, inode.RootDir, good, frame); !errors.Is(err, fserr.ErrIsDir) {
		t.Errorf("directory: %v", err)
	}
	if err := tree.WriteEncoded(ctx, ino, good, frame); err != nil {
		t.Errorf("the good one: %v", err)
	}
	if err := im.fs.Close(); err != nil {
		t.Fatal(err)
	}
}
