package copytree_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"imgtool/engine"
	"imgtool/engine/copytree"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
)

// TestEverySize imports files of sizes around every boundary between 0 and 8,200 bytes, and asks the kernel for each.
func TestEverySize(t *testing.T) {
	src := t.TempDir()
	content := make([]byte, 8200)
	for i := range content {
		content[i] = byte(i*7 + i>>8)
	}
	for n := 0; n <= len(content); n++ {
		if near := n % 1024; n%29 == 0 || near <= 2 || near >= 1022 || n >= 8190 {
			must(t, os.WriteFile(filepath.Join(src, fmt.Sprint(n)), content[:n], 0o644))
		}
	}
	for _, nodesize := range []int{4096, 16384} {
		fs, img := newImage(t, 200<<20, func(o *mkfs.Options) { o.NodeSize = nodesize })
		importInto(t, fs, src, copytree.ImportOptions{TopAttrs: true})
		ours := manifestOf(t, fs)
		must(t, fs.Close())
		if d := oracle.ManifestDiff(comparable(t, oracle.Manifest(t, src)), comparable(t, ours)); d != "" {
			t.Error(d)
		}
		oracle.Check(t, img)
		m := oracle.Mount(t, img, oracle.Opts("ro"))
		oracle.Run(t, "diff", "-r", src, m.Dir)
		m.Unmount()
	}
}

// TestGoSource imports GOROOT/src and compares what the kernel shows, byte by byte and with all attributes.
func TestGoSource(t *testing.T) {
	src := goSource(t)
	fs, img := newImage(t, 1<<30, nil)
	importInto(t, fs, src, copytree.ImportOptions{TopAttrs: true})
	ours := manifestOf(t, fs)
	must(t, fs.Close())
	oracle.Check(t, img)
	m := oracle.Mount(t, img, oracle.Opts("ro"))
	oracle.Run(t, "diff", "-r", src, m.Dir)
	theirs := m.ManifestOf("")
	m.Unmount()
	if d := oracle.ManifestDiff(ours, theirs); d != "" {
		t.Errorf("kernel and engine: %s", d)
	}
	if d := oracle.ManifestDiff(comparable(t, oracle.Manifest(t, src)), comparable(t, theirs)); d != "" {
		t.Errorf("kernel and source: %s", d)
	}
}

// TestParallelImports fills four subvolumes at the same time, with small transactions and commits and snapshots under
// way.
func TestParallelImports(t *testing.T) {
	src := goSource(t)
	img := filepath.Join(t.TempDir(), "fs.img")
	o := engine.FormatOptions{Options: mkfs.Default(), Size: 1 << 30}
	o.MaxDirty = 2 << 20
	fs, err := engine.Format(t.Context(), img, o)
	must(t, err)
	parts := []string{"go", "net", "crypto", "encoding"}
	var wg, snaps sync.WaitGroup
	stop := make(chan struct{})
	snaps.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			from := parts[i%len(parts)]
			if _, err := fs.Snapshot(t.Context(), from, fmt.Sprintf("%s.%d", from, i), i%2 == 0); err != nil && !errors.Is(err, fserr.ErrNotFound) {
				t.Errorf("snapshot: %v", err)
				return
			}
		}
	})
	for _, part := range parts {
		id, err := fs.CreateSubvolume(t.Context(), part, subvol.CreateOptions{})
		must(t, err)
		wg.Go(func() {
			tree, err := fs.Subvolume(t.Context(), id)
			if err == nil {
				_, err = copytree.Import(t.Context(), tree, inode.RootDir, filepath.Join(src, part), copytree.ImportOptions{TopAttrs: true})
			}
			if err != nil {
				t.Errorf("%s: %v", part, err)
			}
		})
	}
	wg.Wait()
	close(stop)
	snaps.Wait()
	must(t, fs.Commit(t.Context()))
	ours := manifestOf(t, fs)
	must(t, fs.Close())
	oracle.Check(t, img)
	m := oracle.Mount(t, img, oracle.Opts("ro"))
	for _, part := range parts {
		oracle.Run(t, "diff", "-r", filepath.Join(src, part), m.Path(part))
	}
	if d := oracle.ManifestDiff(ours, m.ManifestOf("")); d != "" {
		t.Error(d)
	}
	m.Unmount()
}

// TestHashCollisions imports names of equal hash: as many as fit one item, and more than that, which fails without
// harm to anything else.
func TestHashCollisions(t *testing.T) {
	for _, c := range []struct {
		names int
		fits  bool
	}{{90, true}, {150, false}, {700, false}} {
		src := t.TempDir()
		must(t, os.Mkdir(filepath.Join(src, "dir"), 0o755))
		for _, name := range collisions(c.names) {
			must(t, os.WriteFile(filepath.Join(src, "dir", name), []byte(name), 0o644))
		}
		fs, img := newImage(t, 200<<20, func(o *mkfs.Options) { o.NodeSize = 4096 })
		tree, err := fs.Subvolume(t.Context(), ondisk.FSTree)
		must(t, err)
		_, err = copytree.Import(t.Context(), tree, inode.RootDir, src, copytree.ImportOptions{})
		if c.fits != (err == nil) || !c.fits && !errors.Is(err, fserr.ErrOverflow) {
			t.Errorf("%d names: %v", c.names, err)
		}
		_, err = tree.Create(t.Context(), inode.RootDir, "after", inode.Attr{Mode: 0o644})
		must(t, err) // not aborted
		must(t, fs.Commit(t.Context()))
		ours := manifestOf(t, fs)
		must(t, fs.Close())
		oracle.Check(t, img)
		m := oracle.Mount(t, img, oracle.Opts("ro"))
		if d := oracle.ManifestDiff(ours, m.ManifestOf("")); d != "" {
			t.Error(d)
		}
		m.Unmount()
	}
}

// collisions makes names of ten bytes whose hash is that of "aaaaaaaaaa". The last four bytes of each come from running
// the CRC backwards.
func collisions(n int) []string {
	table := crc32.MakeTable(crc32.Castagnoli)
	want := uint32(ondisk.NameHash([]byte("aaaaaaaaaa")))
	var names []string
	for i := uint32(0); len(names) < n; i++ {
		prefix := []byte{'p', 'a' + byte(i&15), 'a' + byte(i>>4&15), 'a' + byte(i>>8&15), 'a' + byte(i>>12&15), 'x'}
		from, at := uint32(ondisk.NameHash(prefix)), want
		for range 4 {
			top := byte(0)
			for table[top]>>24 != at>>24 {
				top++
			}
			at = (at^table[top])<<8 | uint32(top)
		}
		name := binary.LittleEndian.AppendUint32(prefix, at^from)
		if bytes.IndexByte(name, 0) < 0 && bytes.IndexByte(name, '/') < 0 && ondisk.NameHash(name) == uint64(want) {
			names = append(names, string(name))
		}
	}
	return names
}
