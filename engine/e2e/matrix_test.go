package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"imgtool/engine"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
)

// setting is one value of one option of mkfs; value 0 of each option is the default. args are those of mkfs.btrfs.
type setting struct {
	name string
	set  func(*engine.FormatOptions)
	args []string
}

// matrixOptions are the options of mkfs that change the image, with all their values.
func matrixOptions() [][]setting {
	type o = engine.FormatOptions
	def := func(name string) setting { return setting{name: name, set: func(*o) {}} }
	list := [][]setting{
		{def("smallest"), {name: "4G", set: func(f *o) { f.Size = 4 << 30 }}, {name: "small", set: func(f *o) { f.Size = 384 << 20 }}},
		{def("n=16k"), nodeSize(4096), nodeSize(8192), nodeSize(32768), nodeSize(65536)},
		{def("crc32c"), csum(ondisk.XXHash64), csum(ondisk.SHA256), csum(ondisk.Blake2b)},
		{def("m=dup"), {"m=single", func(f *o) { f.Meta = 0 }, []string{"-m", "single"}}},
		{def("d=single"), {"d=dup", func(f *o) { f.Data = ondisk.BGDup }, []string{"-d", "dup"}}},
		{def(""), {name: "label", set: func(f *o) { f.Label = strings.Repeat("é", 127) }}},
		{def(""), {name: "uuid", set: func(f *o) { f.FSID = ondisk.UUID(uuid.New()) }}},
	}
	for _, f := range mkfs.FeatureList {
		if !f.Default {
			panic("e2e: a feature that is not on by default")
		}
		off := setting{"^" + f.Name, func(o *engine.FormatOptions) {
			_ = o.Features.Parse("^" + f.Name) // the name is from the list
		}, []string{"-O", "^" + f.Name}}
		list = append(list, []setting{def(""), off})
	}
	return list
}

func nodeSize(n int) setting {
	return setting{fmt.Sprintf("n=%dk", n>>10), func(f *engine.FormatOptions) { f.NodeSize = n }, []string{"-n", fmt.Sprint(n)}}
}

func csum(c ondisk.CsumType) setting {
	return setting{c.String(), func(f *engine.FormatOptions) { f.Csum = c }, []string{"--csum", c.String()}}
}

// matrixRow chooses one value of each option, by index.
type matrixRow []int

// options returns what a row asks for; ok is false for combinations that mkfs refuses.
func (r matrixRow) options() (o engine.FormatOptions, name string, ok bool) {
	o.Options = mkfs.Default()
	var names []string
	for i, values := range matrixOptions() {
		values[r[i]].set(&o)
		if values[r[i]].name != "" {
			names = append(names, values[r[i]].name)
		}
	}
	if o.Size == 0 {
		o.Size = o.MinSize()
	}
	return o, strings.Join(names, ","), o.Validate() == nil
}

// pair is two options with a value each.
type pair struct{ a, av, b, bv int }

// row returns the defaults but for the pair.
func (p pair) row(n int) matrixRow {
	r := make(matrixRow, n)
	r[p.a], r[p.b] = p.av, p.bv
	return r
}

// allPairs lists the pairs of values that mkfs accepts. BlockGroupTree needs other features: where a pair turns one of
// these off, the row turns it off, too.
func allPairs() (ps []pair) {
	opts := matrixOptions()
	for a := range opts {
		for b := a + 1; b < len(opts); b++ {
			for av := range opts[a] {
				for bv := range opts[b] {
					p := pair{a, av, b, bv}
					if _, _, ok := p.row(len(opts)).repair(p).options(); ok {
						ps = append(ps, p)
					}
				}
			}
		}
	}
	return ps
}

// repair turns the block-group tree off where the row lacks what it needs, unless the pair asks for it.
func (r matrixRow) repair(p pair) matrixRow {
	opts := matrixOptions()
	bgt := len(opts) - 1
	if opts[bgt][1].name != "^block-group-tree" {
		panic("e2e: the last feature is another one")
	}
	if _, _, ok := r.options(); !ok && p.a != bgt && p.b != bgt {
		r[bgt] = 1
	}
	return r
}

func (r matrixRow) covers(p pair) bool { return r[p.a] == p.av && r[p.b] == p.bv }

// pairwise returns few rows that together hold every pair: greedily, each row begins with a pair that is missing and
// takes for each further option the value that adds most.
func pairwise() (rows []matrixRow) {
	opts, missing := matrixOptions(), allPairs()
	for len(missing) > 0 {
		first := missing[0]
		row := first.row(len(opts)).repair(first)
		for i := range opts {
			if i == first.a || i == first.b {
				continue
			}
			best, most := row[i], -1
			for v := range opts[i] {
				row[i] = v
				if _, _, ok := row.options(); !ok {
					continue
				}
				n := 0
				for _, p := range missing {
					if row.covers(p) {
						n++
					}
				}
				if n > most {
					best, most = v, n
				}
			}
			row[i] = best
		}
		rows = append(rows, row)
		rest := missing[:0]
		for _, p := range missing {
			if !row.covers(p) {
				rest = append(rest, p)
			}
		}
		missing = rest
	}
	return rows
}

// TestMatrix makes empty file systems with every pair of values of the options of mkfs: all pairs in few images, and in
// the long variant each value alone and each pair alone. btrfs check accepts them, and the kernel works with them.
func TestMatrix(t *testing.T) {
	rows := pairwise()
	if oracle.Soak() {
		n := len(matrixOptions())
		for _, p := range allPairs() {
			rows = append(rows, p.row(n).repair(p)) // p with a default value is a value alone
		}
	}
	done := map[string]bool{}
	for _, row := range rows {
		o, name, ok := row.options()
		if !ok {
			t.Fatalf("%s: mkfs does not accept the row", name)
		}
		if done[name] {
			continue
		}
		done[name] = true
		t.Run(name, func(t *testing.T) {
			img, fs := create(t, 0, func(f *engine.FormatOptions) { *f = o })
			must(t, fs.Close())
			var mount []oracle.MountOption
			if !o.Features.FreeSpaceTree { // the kernel's default without one is a format that it warns of
				mount = append(mount, oracle.Opts("nospace_cache"))
			}
			full := kernelWorks(t, img, mount...)
			// The smallest images are too small for some of it, the kernel's own ones too: a balance of mkfs.btrfs' smallest
			// image with its defaults ends in ENOSPC, and with nodes of 64 KiB even mkdir does. Which command it is
			// depends on where the chunks lie.
			if len(full) > 0 && o.Size == o.MinSize() && (slices.Equal(full, []string{kernelBalance}) || len(kernelControl(t, o.Size, row, mount...)) > 0) {
				return
			}
			if len(full) > 0 {
				t.Errorf("the kernel has no space for %q", full)
			}
		})
	}
	t.Logf("%d images", len(done))
}

func (r matrixRow) args() (args []string) {
	for i, values := range matrixOptions() {
		args = append(args, values[r[i]].args...)
	}
	return args
}

// kernelControl does the same with an image of mkfs.btrfs of the same options.
func kernelControl(t *testing.T, size uint64, row matrixRow, mount ...oracle.MountOption) []string {
	control := filepath.Join(t.TempDir(), "control.img")
	oracle.Mkfs(t, control, int64(size), row.args()...)
	return kernelWorks(t, control, mount...)
}

const kernelBalance = `btrfs balance start -m .`

// kernelWorks checks an image, has the kernel write, snapshot and balance in it, and checks it again. It returns the
// commands that failed for lack of space; nothing else may go wrong.
func kernelWorks(t *testing.T, img string, mount ...oracle.MountOption) (full []string) {
	t.Helper()
	oracle.CheckWith(t, oracle.CheckOptions{NoDataCsum: true}, img)
	m := oracle.Mount(t, img, mount...)
	for _, command := range []string{
		`mkdir dir; for i in 1 2 3 4 5 6 7 8 9; do head -c $((i*i*i*300)) /dev/urandom > dir/file$i; ln dir/file$i dir/link$i; done`,
		`btrfs subvolume create subvol`,
		`btrfs subvolume snapshot . snapshot`,
		`rm -rf dir; [ ! -d snapshot/dir ] || echo text > snapshot/dir/file1; sync`,
		kernelBalance,
		`[ ! -d subvol ] || btrfs subvolume delete --commit-after subvol; btrfs subvolume sync .`,
	} {
		out, err := oracle.RunErr("sh", "-e", "-c", "cd "+m.Dir+" && "+command)
		if err == nil {
			continue
		}
		if text := out + err.Error(); !strings.Contains(text, "No space left") {
			t.Fatalf("%s: %s", command, text)
		}
		full = append(full, command)
	}
	m.Unmount()
	oracle.Check(t, img)
	return full
}

// TestFourLevels fills a file tree of 4 KiB nodes until it has four levels, and lets the kernel take it on.
func TestFourLevels(t *testing.T) {
	ctx := t.Context()
	img, fs := create(t, 4<<30, func(o *engine.FormatOptions) { o.NodeSize = 4096 })
	tree, err := fs.Subvolume(ctx, ondisk.FSTree)
	must(t, err)
	// One inode fills a leaf, and a node holds 121 pointers.
	big := []inode.Xattr{{Name: "user.big", Value: make([]byte, 3400)}}
	n := 0
	level := func() uint8 {
		db, err := fs.DB().Tree(ctx, ondisk.FSTree)
		must(t, err)
		_, level, _ := db.Root()
		return level
	}
	for ; n%100 != 0 || level() < 3; n++ {
		if n > 40000 {
			t.Fatalf("%d leaves and the root is on level %d", n, level())
		}
		_, err := tree.Create(ctx, 256, fmt.Sprintf("%05d", n), inode.Attr{Mode: 0o644, Xattrs: big})
		must(t, err)
	}
	for i := 0; i < n; i += 7 {
		must(t, tree.Unlink(ctx, 256, fmt.Sprintf("%05d", i)))
	}
	finish(t, fs, img)
	m := oracle.Mount(t, img)
	m.KernelSnapshot(".", "snapshot", true)
	oracle.Run(t, "sh", "-c", fmt.Sprintf("cd %s && rm 0000? && sync", m.Dir))
	m.KernelBalance("-m")
	m.Unmount()
	oracle.Check(t, img)

	fs = reopen(t, img)
	tree, err = fs.Subvolume(ctx, ondisk.FSTree)
	must(t, err)
	for i := 10; i < n; i++ {
		if i%7 != 0 {
			must(t, tree.Unlink(ctx, 256, fmt.Sprintf("%05d", i)))
		}
	}
	finish(t, fs, img)
}
