package engine_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
)

// TestFormatMatrix makes empty file systems of every value of every option and asks btrfs check and the kernel, which
// also writes to them.
func TestFormatMatrix(t *testing.T) {
	type change = func(*mkfs.Options)
	cases := map[string]change{
		"default": func(*mkfs.Options) {},
		"label":   func(o *mkfs.Options) { o.Label = "a label, ünïcode" },
		"single":  func(o *mkfs.Options) { o.Meta = 0 },
		"dup":     func(o *mkfs.Options) { o.Data = ondisk.BGDup },
		"single metadata, dup data": func(o *mkfs.Options) {
			o.Meta, o.Data = 0, ondisk.BGDup
		},
	}
	for _, n := range []int{4096, 8192, 32768, 65536} {
		cases["nodes of "+strings.Repeat("k", n/4096)] = func(o *mkfs.Options) { o.NodeSize = n }
	}
	for _, c := range []ondisk.CsumType{ondisk.XXHash64, ondisk.SHA256, ondisk.Blake2b} {
		cases[c.String()] = func(o *mkfs.Options) { o.Csum = c }
	}
	for _, list := range []string{"^extref", "^skinny-metadata", "^no-holes,^block-group-tree", "^free-space-tree,^block-group-tree", "^block-group-tree"} {
		cases[list] = func(o *mkfs.Options) { must(t, o.Features.Parse(list)) }
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			o := mkfs.Default()
			change(&o)
			img := newImage(t, o, o.MinSize())
			oracle.Check(t, img)
			opts := []string{}
			if !o.Features.FreeSpaceTree {
				opts = append(opts, "nospace_cache")
			}
			m := oracle.Mount(t, img, oracle.Opts(opts...))
			must(t, os.WriteFile(m.Path("f"), make([]byte, 100000), 0o644))
			m.KernelSubvolume("sub")
			m.KernelSnapshot("", "snap", false)
			m.Unmount()
			oracle.Check(t, img)
		})
	}
}

// TestFormatGuards checks what Format refuses, and that a refusal changes nothing.
func TestFormatGuards(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x")
	format := func(o engine.FormatOptions) error {
		if o.NodeSize == 0 {
			o.Options = mkfs.Default()
		}
		f, err := engine.Format(t.Context(), path, o)
		if err == nil {
			must(t, f.Close())
		}
		return err
	}
	if err := format(engine.FormatOptions{}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "--byte-count") {
		t.Errorf("missing without size: %v", err)
	}
	if err := format(engine.FormatOptions{Size: 50 << 20}); !errors.Is(err, fserr.ErrInvalid) || !strings.Contains(err.Error(), "minimum is 114294784") {
		t.Errorf("too small: %v", err)
	}
	bad := mkfs.Default()
	bad.NodeSize = 5000
	if err := format(engine.FormatOptions{Options: bad, Size: 200 << 20}); !errors.Is(err, fserr.ErrInvalid) {
		t.Errorf("bad node size: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a failed Format left a file: %v", err)
	}
	must(t, format(engine.FormatOptions{Size: 200 << 20}))
	before := hashOf(t, path)
	for _, size := range []uint64{0, 300 << 20} {
		if err := format(engine.FormatOptions{Size: size}); !errors.Is(err, fserr.ErrExist) || !strings.Contains(err.Error(), "btrfs") || !strings.Contains(err.Error(), "--force") {
			t.Errorf("over a btrfs: %v", err)
		}
	}
	if hashOf(t, path) != before {
		t.Error("a refusal has changed the image")
	}
	must(t, format(engine.FormatOptions{Force: true, Size: 300 << 20}))
	if st, err := os.Stat(path); err != nil || st.Size() != 300<<20 {
		t.Errorf("the image did not grow: %v %v", st, err)
	}
	loop := oracle.Loop(t, path)
	if err := format(engine.FormatOptions{Force: true}); !errors.Is(err, disk.ErrBusy) {
		t.Errorf("over a loop device's file: %v", err)
	}
	must(t, loop.Detach())
}

// TestForeignSignatures lets other mkfs make what must not be overwritten, as far as they are installed, and checks
// that nothing of it is recognised any more after Format by force.
func TestForeignSignatures(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
	}{
		{"mkfs.ext4", []string{"-q", "-F"}}, {"mkfs.xfs", []string{"-q", "-f"}}, {"mkswap", nil}, {"mkfs.vfat", nil},
		{"mkfs.f2fs", []string{"-q"}}, {"mkfs.ntfs", []string{"-q", "-F"}}, {"sfdisk", nil}, {"mkfs.btrfs", []string{"-q"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := exec.LookPath(c.name); err != nil {
				t.Skip(err)
			}
			img := filepath.Join(t.TempDir(), "x")
			must(t, os.WriteFile(img, nil, 0o644))
			must(t, os.Truncate(img, 400<<20))
			if c.name == "sfdisk" {
				oracle.Run(t, "sh", "-c", "echo 'label: gpt' | sfdisk -q "+img)
			} else {
				oracle.Run(t, c.name, append(c.args, img)...)
			}
			o := engine.FormatOptions{Options: mkfs.Default()}
			if _, err := engine.Format(t.Context(), img, o); !errors.Is(err, fserr.ErrExist) {
				t.Fatalf("not refused: %v", err)
			}
			o.Force, o.KeepData = true, true
			f, err := engine.Format(t.Context(), img, o)
			must(t, err)
			must(t, f.Close())
			if out := oracle.Run(t, "wipefs", img); strings.Count(strings.TrimSpace(out), "\n") != 1 || !strings.Contains(out, "btrfs") {
				t.Errorf("wipefs still finds: %s", out)
			}
			oracle.Check(t, img)
		})
	}
}
