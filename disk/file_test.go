package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

var bg = context.Background()

// create makes an image file in a directory of the test.
func create(t testing.TB, size int64, o Options) *File {
	t.Helper()
	f, err := Create(filepath.Join(t.TempDir(), "image"), size, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return f
}

// withAlign pretends that a buffered file is a direct one that wants blocks of n bytes, so that bounces and the tail
// are tested wherever the tests run, and with blocks larger than the host's.
func withAlign(t testing.TB, f *File, n int) *File {
	t.Helper()
	f.direct, f.align = true, Alignment{n, n}
	if err := f.setSize(f.Size()); err != nil {
		t.Fatal(err)
	}
	return f
}

// model compares a device with a byte slice, over reads, writes and discards of any alignment.
func model(t *rapid.T, dev Device, truncate func(int64) error) {
	const maxSize = 40 << 10
	want := make([]byte, dev.Size())
	pool := NewPool()
	page := pool.Get(64 << 10)
	defer func() {
		pool.Put(page)
		pool.Close()
	}()
	span := func(t *rapid.T) (off, n int) {
		edge := rapid.SampledFrom([]int{0, 0, 1, -1, 100, -100})
		off = rapid.IntRange(0, maxSize/512).Draw(t, "block")*512 + edge.Draw(t, "d")
		n = rapid.IntRange(0, 24).Draw(t, "blocks")*512 + edge.Draw(t, "d")
		off, n = max(off, 0), max(n, 0)
		return min(off, len(want)), min(n, len(want)-min(off, len(want)))
	}
	buffer := func(t *rapid.T, n int) []byte {
		skew := rapid.SampledFrom([]int{0, 0, 512, 1}).Draw(t, "skew")
		return page[skew : skew+n : skew+n]
	}
	t.Repeat(map[string]func(*rapid.T){
		"write": func(t *rapid.T) {
			off, n := span(t)
			p := buffer(t, n)
			for i := range p {
				p[i] = byte(rand.Uint32())
			}
			if m, err := dev.WriteAt(bg, p, int64(off)); m != n || err != nil {
				t.Fatalf("write %d at %d: %d, %v", n, off, m, err)
			}
			copy(want[off:], p)
		},
		"read": func(t *rapid.T) {
			off, n := span(t)
			p := buffer(t, n)
			if m, err := dev.ReadAt(bg, p, int64(off)); m != n || err != nil && n > 0 {
				t.Fatalf("read %d at %d: %d, %v", n, off, m, err)
			}
			if !bytes.Equal(p, want[off:off+n]) {
				t.Fatalf("read %d at %d: wrong bytes", n, off)
			}
		},
		"discard": func(t *rapid.T) {
			off, n := span(t)
			if err := dev.Discard(bg, int64(off), int64(n)); err != nil {
				t.Fatal(err)
			}
			clear(want[off : off+n])
		},
		"truncate": func(t *rapid.T) {
			size := rapid.IntRange(1, maxSize).Draw(t, "size")
			if err := truncate(int64(size)); err != nil {
				t.Fatal(err)
			}
			want = append(want[:min(size, len(want))], make([]byte, max(0, size-len(want)))...)
		},
		"flush": func(t *rapid.T) {
			if err := dev.Flush(bg); err != nil {
				t.Fatal(err)
			}
		},
		"": func(t *rapid.T) {
			if dev.Size() != int64(len(want)) {
				t.Fatalf("size %d, want %d", dev.Size(), len(want))
			}
			got := make([]byte, len(want)+1)
			if n, err := dev.ReadAt(bg, got, 0); n != len(want) || err != io.ErrUnexpectedEOF {
				t.Fatalf("read all: %d, %v", n, err)
			}
			if !bytes.Equal(got[:len(want)], want) {
				t.Fatal("image differs from the model")
			}
		},
	})
}

func TestFileModel(t *testing.T) {
	for _, c := range []struct {
		name  string
		mode  DirectMode
		align int
	}{{"buffered", DirectOff, 0}, {"auto", DirectAuto, 0}, {"blocks of 512", DirectOff, 512}, {"blocks of 4096", DirectOff, 4096}, {"blocks of 8192", DirectOff, 8192}} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			rapid.Check(t, func(t *rapid.T) {
				path := filepath.Join(dir, "image")
				os.Remove(path)
				f, err := Create(path, rapid.Int64Range(1, 40<<10).Draw(t, "size"), Options{Direct: c.mode})
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				if c.align != 0 {
					f.direct, f.align = true, Alignment{c.align, c.align}
					if err := f.setSize(f.Size()); err != nil {
						t.Fatal(err)
					}
				}
				model(t, f, f.Truncate)
			})
		})
	}
}

func TestMemModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := NewMem("m", rapid.Int64Range(1, 40<<10).Draw(t, "size"))
		model(t, m, m.Truncate)
	})
}

// Large unaligned transfers go through the bounce buffer in more than one piece.
func TestLargeBounce(t *testing.T) {
	const size = 5 << 20
	f := withAlign(t, create(t, size, Options{Direct: DirectOff}), 4096)
	rng := rand.New(rand.NewPCG(1, 2))
	want := make([]byte, size)
	for i := range want {
		want[i] = byte(rng.Uint32())
	}
	if n, err := f.WriteAt(bg, want[7:size-9], 7); n != size-16 || err != nil {
		t.Fatal(n, err)
	}
	got := make([]byte, size-16)
	if n, err := f.ReadAt(bg, got, 7); n != len(got) || err != nil {
		t.Fatal(n, err)
	}
	if !bytes.Equal(got, want[7:size-9]) {
		t.Fatal("bytes differ")
	}
	if st := f.pool.Stats(); st.InUse != 0 {
		t.Errorf("%d bounce buffers leaked", st.InUse)
	}
}

// Writers of neighbouring bytes of one block must not undo one another.
func TestEdgeWriters(t *testing.T) {
	f := withAlign(t, create(t, 64<<10, Options{Direct: DirectOff}), 4096)
	const writers, each = 8, 100
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				b := []byte{byte(w*each + i), byte((w*each + i) >> 8)}
				if _, err := f.WriteAt(bg, b, int64((i*writers+w)*2)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got := make([]byte, writers*each*2)
	if _, err := f.ReadAt(bg, got, 0); err != nil {
		t.Fatal(err)
	}
	for i := range each {
		for w := range writers {
			at := (i*writers + w) * 2
			if v := int(got[at]) | int(got[at+1])<<8; v != w*each+i {
				t.Fatalf("writer %d, turn %d: found %d: lost update", w, i, v)
			}
		}
	}
}

func TestEnds(t *testing.T) {
	devs := map[string]Device{
		"mem": NewMem("m", 10000), "buffered": create(t, 10000, Options{Direct: DirectOff}),
		"auto": create(t, 10000, Options{}),
	}
	for name, dev := range devs {
		t.Run(name, func(t *testing.T) {
			for _, c := range []struct {
				off  int64
				n    int
				want int
				err  error
			}{{0, 10000, 10000, nil}, {9999, 1, 1, nil}, {9999, 2, 1, io.ErrUnexpectedEOF}, {10000, 1, 0, io.EOF},
				{20000, 5, 0, io.EOF}, {20000, 0, 0, nil}, {4096, 8192, 5904, io.ErrUnexpectedEOF}} {
				if n, err := dev.ReadAt(bg, make([]byte, c.n), c.off); n != c.want || err != c.err {
					t.Errorf("read %d at %d: %d, %v; want %d, %v", c.n, c.off, n, err, c.want, c.err)
				}
			}
			if _, err := dev.ReadAt(bg, make([]byte, 1), -1); !errors.Is(err, syscall.EINVAL) {
				t.Errorf("read at -1: %v", err)
			}
			for _, off := range []int64{9999, 10000, 1 << 40} {
				if n, err := dev.WriteAt(bg, []byte{1, 2}, off); n != 0 || !errors.Is(err, syscall.ENOSPC) {
					t.Errorf("write at %d: %d, %v", off, n, err)
				}
			}
			if err := dev.Discard(bg, 9999, 2); !errors.Is(err, syscall.EINVAL) {
				t.Errorf("discard: %v", err)
			}
			if dev.Size() != 10000 {
				t.Errorf("size is now %d", dev.Size())
			}
		})
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(bg)
	cancel()
	for _, dev := range []Device{NewMem("m", 8192), create(t, 8192, Options{}), create(t, 8191, Options{})} {
		_, rerr := dev.ReadAt(ctx, make([]byte, 100), 5)
		_, werr := dev.WriteAt(ctx, make([]byte, 100), 5)
		for _, err := range []error{rerr, werr, dev.Flush(ctx), dev.Discard(ctx, 0, 4096)} {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", dev.Name(), err)
			}
		}
	}
}

func TestClosed(t *testing.T) {
	for _, dev := range []Device{NewMem("m", 8192), create(t, 8192, Options{}), create(t, 8191, Options{})} {
		if err := dev.Close(); err != nil {
			t.Fatal(err)
		}
		_, rerr := dev.ReadAt(bg, make([]byte, 100), 5)
		_, werr := dev.WriteAt(bg, make([]byte, 100), 5)
		_, terr := dev.ReadAt(bg, make([]byte, 1), 8190)
		for i, err := range []error{rerr, werr, terr, dev.Flush(bg), dev.Discard(bg, 0, 4096), dev.Close()} {
			if !errors.Is(err, os.ErrClosed) {
				t.Errorf("%s, call %d: %v", dev.Name(), i, err)
			}
		}
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	empty, fifo := filepath.Join(dir, "empty"), filepath.Join(dir, "fifo")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		want error
	}{{filepath.Join(dir, "missing"), fs.ErrNotExist}, {dir, syscall.EISDIR}, {empty, fs.ErrInvalid},
		{fifo, fs.ErrInvalid}, {"/dev/null", fs.ErrInvalid}, {filepath.Join(empty, "x"), syscall.ENOTDIR}} {
		for _, o := range []Options{{}, {ReadOnly: true}, {ForceReadonly: true}, {Direct: DirectOff}} {
			f, err := Open(c.path, o)
			if !errors.Is(err, c.want) {
				t.Errorf("open %s %+v: %v, want %v", c.path, o, err, c.want)
			}
			if f != nil {
				f.Close()
			}
		}
	}
}

func TestCreate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	old := syscall.Umask(0o027)
	f, err := Create(path, 1<<30, Options{})
	syscall.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil || st.Size != 1<<30 || st.Mode&0o777 != 0o640 || st.Blocks > 64 {
		t.Errorf("size %d, mode %o, %d blocks, %v", st.Size, st.Mode&0o777, st.Blocks, err)
	}
	if _, err := f.WriteAt(bg, []byte("hello"), 1000); err != nil {
		t.Fatal(err)
	}
	if err := f.Flush(bg); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := Create(path, 1<<20, Options{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second create: %v", err)
	}
	f, err = Create(path, 1<<20, Options{Reuse: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make([]byte, 5)
	if _, err := f.ReadAt(bg, got, 1000); err != nil || string(got) != "hello" || f.Size() != 1<<20 {
		t.Errorf("reused: %q, size %d, %v", got, f.Size(), err)
	}
	if _, err := Create(filepath.Join(filepath.Dir(path), "huge"), 1<<62, Options{}); !errors.Is(err, syscall.EFBIG) {
		t.Errorf("huge: %v", err)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(path), "huge")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a failed create left its file: %v", err)
	}
	if _, err := Create(path+"2", 0, Options{}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("size 0: %v", err)
	}
}

func TestReadOnly(t *testing.T) {
	w := create(t, 8192, Options{})
	w.Close()
	r, err := Open(w.Name(), Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	_, werr := r.WriteAt(bg, make([]byte, 4096), 0)
	for i, err := range []error{werr, r.Discard(bg, 0, 4096), r.Truncate(4096)} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("call %d: %v", i, err)
		}
	}
	if err := r.Flush(bg); err != nil {
		t.Error(err)
	}
}

func TestFileLocks(t *testing.T) {
	w := create(t, 8192, Options{})
	path := w.Name()
	open := func(o Options) error {
		f, err := Open(path, o)
		if err == nil {
			f.Close()
		}
		return err
	}
	for _, o := range []Options{{}, {ReadOnly: true}} {
		if err := open(o); !errors.Is(err, ErrBusy) {
			t.Errorf("beside a writer, %+v: %v", o, err)
		}
	}
	if err := open(Options{ForceReadonly: true}); err != nil {
		t.Errorf("force: %v", err)
	}
	w.Close()
	r, err := Open(path, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := open(Options{ReadOnly: true}); err != nil {
		t.Errorf("beside a reader, reading: %v", err)
	}
	if err := open(Options{}); !errors.Is(err, ErrBusy) {
		t.Errorf("beside a reader, writing: %v", err)
	}
}

func TestFileStats(t *testing.T) {
	f := create(t, 64<<10, Options{})
	f.WriteAt(bg, make([]byte, 5000), 3)
	f.ReadAt(bg, make([]byte, 100), 3)
	f.ReadAt(bg, make([]byte, 100), 64<<10-10)
	f.Discard(bg, 0, 8192)
	f.Flush(bg)
	want := Stats{Reads: 2, ReadBytes: 110, Writes: 1, WriteBytes: 5000, Discards: 1, DiscardBytes: 8192, Flushes: 1}
	if got := f.Stats(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestDirectMode(t *testing.T) {
	var m DirectMode
	for _, s := range []string{"on", "off", "auto"} {
		if err := m.Set(s); err != nil || m.String() != s {
			t.Errorf("%s: %v, %v", s, m, err)
		}
	}
	if err := m.Set("maybe"); err == nil || m != DirectAuto {
		t.Errorf("maybe: %v, %v", m, err)
	}
}

// The real thing, where the host file system of the test directory has it.
func TestDirect(t *testing.T) {
	dir := t.TempDir()
	f, err := Create(filepath.Join(dir, "on"), 1<<20+100, Options{Direct: DirectOn})
	if errors.Is(err, unix.EINVAL) {
		var warnings []string
		g, err := Create(filepath.Join(dir, "auto"), 1<<20, Options{Warn: func(m string) { warnings = append(warnings, m) }})
		if err != nil || len(warnings) != 1 || g.Direct() {
			t.Fatalf("auto without O_DIRECT: %v, warnings %q", err, warnings)
		}
		g.Close()
		t.Skip("no O_DIRECT here; the fall-back was tested")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	flags, err := unix.FcntlInt(f.f.Fd(), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_DIRECT == 0 || !f.Direct() || f.Align().Offset < 512 {
		t.Fatalf("flags %o, direct %v, %+v, %v", flags, f.Direct(), f.Align(), err)
	}
	pool := NewPool()
	defer pool.Close()
	buf := pool.Get(16 << 10)
	defer pool.Put(buf)
	for i := range buf {
		buf[i] = byte(i * 7)
	}
	if _, err := f.WriteAt(bg, buf, 64<<10); err != nil {
		t.Fatal(err)
	}
	if st := f.pool.Stats(); st.Slabs != 0 && f.align.Offset <= 4096 {
		t.Errorf("an aligned write was bounced: %+v", st)
	}
	if _, err := f.WriteAt(bg, []byte("the last bytes"), 1<<20+86); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(f.Name())
	if err != nil || !bytes.Equal(got[64<<10:80<<10], buf) || string(got[1<<20+86:]) != "the last bytes" {
		t.Errorf("read back through the page cache: differs, %v", err)
	}
}

func TestErrorText(t *testing.T) {
	m := NewMem("img", 10)
	_, err := m.WriteAt(bg, make([]byte, 20), 4)
	want := "write img: 20 bytes at offset 4: past the end of the device: no space left on device"
	if fmt.Sprint(err) != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}
