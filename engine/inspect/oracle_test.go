package inspect

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"imgtool/engine/internal/oracle"
	"imgtool/engine/ondisk"
)

// normalise rewrites btrfs-progs' text where ours is meant to differ. These are all the differences known.
func normalise(theirs string) string {
	lines := strings.Split(theirs, "\n")
	if strings.HasPrefix(lines[0], "btrfs-progs ") {
		lines = lines[1:] // its version
	}
	for i, l := range lines {
		switch {
		case strings.Contains(l, "name: ") || strings.HasPrefix(l, "\t\tdata "):
			lines[i] = strings.ReplaceAll(l, `\ `, ` `) // releases before 6.17 put a backslash before spaces
		case strings.HasPrefix(l, "\t\tcsum_root:"):
			lines[i] = "\t\tbackup_" + l[2:] // 6.14, and some before it, print this label without its prefix
		case strings.HasPrefix(l, "\t(172 "):
			lines[i] = "\t" + strings.Replace(l, ") textent", ") extent", 1) // a typing error of 6.7 and later
		}
	}
	return strings.Join(lines, "\n")
}

// sameText fails with the first differing lines.
func sameText(t *testing.T, what, ours, theirs string) {
	t.Helper()
	if ours == theirs {
		return
	}
	a, b := strings.Split(ours, "\n"), strings.Split(theirs, "\n")
	shown := 0
	for i := range max(len(a), len(b)) {
		var x, y string
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if x != y {
			t.Errorf("%s line %d:\nours   %q\ntheirs %q", what, i+1, x, y)
			if shown++; shown == 5 {
				break
			}
		}
	}
}

// wholeTree compares complete dumps and returns our text.
func wholeTree(t *testing.T, imgs ...string) string {
	t.Helper()
	ours := dump(t, Options{}, imgs...)
	sameText(t, "dump-tree", ours, normalise(oracle.Btrfs(t, append([]string{"inspect-internal", "dump-tree"}, imgs...)...)))
	return ours
}

func dump(t *testing.T, o Options, imgs ...string) string {
	t.Helper()
	var out bytes.Buffer
	if err := DumpTree(t.Context(), &out, openImage(t, imgs...), o); err != nil {
		t.Error(err)
	}
	return out.String()
}

// supers compares all superblock copies.
func supers(t *testing.T, img string) {
	t.Helper()
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() // read only
	var copies []SuperCopy
	for _, off := range ondisk.SuperOffsets {
		sb := new(ondisk.SuperBlock)
		if _, err := f.ReadAt(sb[:], int64(off)); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		copies = append(copies, SuperCopy{off, sb})
	}
	for _, full := range []bool{false, true} {
		var out bytes.Buffer
		if err := Supers(&out, img, copies, SuperOptions{Full: full}); err != nil {
			t.Fatal(err)
		}
		args := []string{"inspect-internal", "dump-super", "-a"}
		if full {
			args = append(args, "-f")
		}
		sameText(t, fmt.Sprint(args), out.String(), normalise(oracle.Btrfs(t, append(args, img)...)))
	}
}

const mib = 1 << 20

// TestSameAsBtrfsProgs compares the text on images that hold every item type that the kernel can be made to write.
func TestSameAsBtrfsProgs(t *testing.T) {
	dir := t.TempDir()
	img, synced, live := filepath.Join(dir, "img"), filepath.Join(dir, "synced"), filepath.Join(dir, "live")
	oracle.Mkfs(t, img, 600*mib, "-L", "a label", "-n", "4096", "--csum", "xxhash")
	workload(t, img, synced, live)
	all := wholeTree(t, img) + wholeTree(t, synced) + wholeTree(t, live)
	supers(t, img)
	supers(t, live)
	for _, typ := range strings.Fields(`INODE_ITEM INODE_REF INODE_EXTREF XATTR_ITEM DIR_ITEM DIR_INDEX EXTENT_DATA EXTENT_CSUM
		ROOT_ITEM ROOT_REF ROOT_BACKREF EXTENT_ITEM METADATA_ITEM EXTENT_DATA_REF SHARED_DATA_REF BLOCK_GROUP_ITEM
		FREE_SPACE_INFO FREE_SPACE_EXTENT DEV_EXTENT DEV_ITEM CHUNK_ITEM QGROUP_STATUS QGROUP_INFO QGROUP_LIMIT
		QGROUP_RELATION PERSISTENT_ITEM UUID_KEY_SUBVOL UUID_KEY_RECEIVED_SUBVOL DIR_LOG_INDEX ORPHAN_ITEM`) {
		if !strings.Contains(all, " "+typ+" ") {
			t.Errorf("the workload has made no %s", typ)
		}
	}
	for _, text := range []string{"(inline)", "(prealloc)", "(zstd)", "(lzo)", "(zlib)", "FULL_BACKREF", "shared block backref parent",
		"shared data backref parent", "log root tree", "log tree key (TREE_LOG", `\303\274`, "NODATASUM|NODATACOW", "RDONLY", " level 2 "} {
		if !strings.Contains(all, text) {
			t.Errorf("the workload has made no %s", text)
		}
	}
	oneTree(t, img)
}

func oneTree(t *testing.T, img string) {
	for _, tree := range []string{"root", "chunk", "extent", "fs", "csum", "uuid", "quota", "free-space", "data-reloc"} {
		id, err := ParseTree(tree)
		if err != nil {
			t.Fatal(err)
		}
		sameText(t, "-t "+tree, dump(t, Options{Tree: id}, img), normalise(oracle.Btrfs(t, "inspect-internal", "dump-tree", "-t", tree, img)))
	}
	sameText(t, "--dfs", dump(t, Options{Tree: 256, DFS: true}, img), normalise(oracle.Btrfs(t, "inspect-internal", "dump-tree", "--dfs", "-t", "256", img)))
	sameText(t, "--roots", dump(t, Options{Roots: true}, img), normalise(oracle.Btrfs(t, "inspect-internal", "dump-tree", "--roots", img)))
	sameText(t, "--backups", dump(t, Options{Backups: true}, img), normalise(oracle.Btrfs(t, "inspect-internal", "dump-tree", "--backups", img)))
	rootRef := regexp.MustCompile(`(?m)^(\t\troot (?:back)?ref key .* name ).*$`) // names that btrfs-progs does not hide
	for _, tree := range []string{"1", "257"} {
		id, err := ParseTree(tree)
		if err != nil {
			t.Fatal(err)
		}
		sameText(t, "--hide-names", dump(t, Options{Tree: id, HideNames: true}, img),
			rootRef.ReplaceAllString(normalise(oracle.Btrfs(t, "inspect-internal", "dump-tree", "--hide-names", "-t", tree, img)), "${1}HIDDEN"))
	}
	im := openImage(t, img)
	root := fmt.Sprint(uint64(im.sb.Root()))
	sameText(t, "-b", dump(t, Options{Blocks: []ondisk.Logical{im.sb.Root()}}, img), normalise(oracle.Btrfs(t, "inspect-internal", "dump-tree", "-b", root, img)))
	sameText(t, "-b --follow", dump(t, Options{Blocks: []ondisk.Logical{im.sb.Root()}, Follow: true}, img),
		normalise(oracle.Btrfs(t, "inspect-internal", "dump-tree", "--follow", "-b", root, img)))
}

// TestOtherFormats compares images of other features and profiles, as mkfs.btrfs makes them.
func TestOtherFormats(t *testing.T) {
	src := t.TempDir()
	for _, n := range []string{"a b", "ü", "x\ny\\z\x1b", "long" + strings.Repeat("x", 200)} {
		if err := os.WriteFile(filepath.Join(src, n), bytes.Repeat([]byte(n), 300), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	for i, args := range [][]string{
		{"-O", "block-group-tree", "--csum", "sha256", "-r", src}, {"-O", "^skinny-metadata,^no-holes,^free-space-tree", "-r", src},
		{"-M", "--csum", "blake2", "-r", src}, {"-n", "65536", "-O", "quota,raid56", "-r", src},
		{"-O", "squota", "-r", src},
	} {
		img := filepath.Join(t.TempDir(), fmt.Sprint("img", i))
		oracle.Mkfs(t, img, 200*mib, args...)
		wholeTree(t, img)
		supers(t, img)
	}
	dir := t.TempDir()
	imgs := []string{filepath.Join(dir, "1"), filepath.Join(dir, "2"), filepath.Join(dir, "3"), filepath.Join(dir, "4")}
	for _, p := range [][2]string{{"raid1", "raid0"}, {"raid10", "raid1c3"}, {"raid1c4", "single"}} {
		oracle.MkfsMulti(t, imgs, 200*mib, "-m", p[0], "-d", p[1])
		wholeTree(t, imgs...)
		supers(t, imgs[1])
	}
}

// TestOldSpaceCache has the kernel write the items of the free-space cache of version 1, which it does for block groups
// of 100 MiB and more.
func TestOldSpaceCache(t *testing.T) {
	img := filepath.Join(t.TempDir(), "img")
	oracle.Mkfs(t, img, 2048*mib, "-O", "^free-space-tree")
	m := oracle.Mount(t, img, oracle.Opts("space_cache=v1"), oracle.AllowComplaints())
	oracle.Run(t, "sh", "-ec", `head -c 20000000 /dev/zero > "$0/x"; sync -f "$0"; echo y > "$0/y"`, m.Dir)
	m.Unmount()
	if !strings.Contains(wholeTree(t, img), "key (FREE_SPACE UNTYPED ") {
		t.Error("the kernel has written no free-space cache")
	}
}

// workload fills img through the kernel. synced becomes a copy after a commit, live one as a crash would leave it: with
// a log tree, an inode orphan and, unless it was too quick, a paused balance. The kernel commits when it is told to, not
// every 30 seconds: that would take the log away, or change the image while it is being copied.
func workload(t *testing.T, img, synced, live string) {
	m := oracle.Mount(t, img, oracle.Opts("compress=zstd", "commit=300"))
	oracle.Run(t, "sh", "-ec", `cd "$0"
btrfs quota enable .
btrfs -q subvolume create sub
long=$(printf %0200d 0); for i in $(seq 600); do echo "hello $i" > sub/f$i; : > sub/$long$i; done
yes abc | head -c 300000 > sub/z; head -c 500000 /dev/urandom > sub/r
truncate -s 10M sub/hole; printf x | dd of=sub/hole bs=1 seek=5000000 conv=notrunc status=none
fallocate -l 1M sub/prealloc; printf x | dd of=sub/prealloc bs=1 seek=9000 conv=notrunc status=none
ln -s /etc/passwd sub/lnk; mknod sub/null c 1 3; mknod sub/blk b 8 1; mkfifo sub/fifo
mkdir sub/many; touch sub/many/base "sub/a b" sub/ü sub/'back\slash'
for i in $(seq 200); do ln sub/many/base sub/many/a-rather-long-name-to-fill-inode-refs-quickly-$i; done
setfattr -n user.a -v 'hello world' sub/z; setfattr -n user.b -v 0x00ff0a5c sub/z
chattr +C sub/many; echo data > sub/many/nocow; chattr +i sub/f1; chattr +d sub/f2
for i in $(seq 150); do cp --reflink=always sub/r sub/rr$i; done
btrfs -q subvolume snapshot -r sub snap1; btrfs -q subvolume snapshot sub snap2
for i in $(seq 50); do echo changed > snap2/f1$i; done; sync -f .
for i in $(seq 50); do echo changed > sub/f1$i; touch sub/rr$i; done; sync -f .
btrfs -q qgroup create 1/5 .; btrfs -q qgroup assign --no-rescan 0/256 1/5 . || true; btrfs qgroup limit 10G sub
mkdir rec; btrfs -q send snap1 | btrfs -q receive rec
mkdir d; touch d/1 d/2; sync -f .; cp --sparse=always "$1" "$2"
btrfs -q subvolume delete -c snap2
mount -o remount,compress-force=lzo .; yes lzo | head -c 100000 > lzo; sync -f .
mount -o remount,compress-force=zlib .; yes zlib | head -c 100000 > zlib; sync -f .
btrfs subvolume sync . > /dev/null; btrfs -q quota rescan -w . || true`, m.Dir, img, synced)
	f, err := os.Create(m.Path("orphan"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(m.Path("orphan")); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, "sh", "-ec", `cd "$0"; sync -f .
btrfs balance start --full-balance . > /dev/null & sleep 0.02; btrfs balance pause . || true; wait || true
rm d/1; echo 2 > d/3; sync d; sync d/3; cp --sparse=always "$1" "$2"`, m.Dir, img, live)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	oracle.RunErr("btrfs", "balance", "cancel", m.Dir)
	m.Unmount()
}
