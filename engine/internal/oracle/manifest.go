package oracle

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// inoPlaceholder is the inode number under which the kernel shows a directory entry whose subvolume is not there: a
// snapshot has such an entry for every subvolume nested in its source (BTRFS_EMPTY_SUBVOL_DIR_OBJECTID).
const inoPlaceholder = 2

// entry is one line of a manifest; the order of the fields is that of the keys.
type entry struct {
	Path         string            `json:"path,omitempty"`
	PathB64      []byte            `json:"path_b64,omitempty"`
	Type         string            `json:"type"`
	Mode         string            `json:"mode"`
	UID          uint32            `json:"uid"`
	GID          uint32            `json:"gid"`
	Size         int64             `json:"size"`
	Mtime        json.Number       `json:"mtime"` // ns since the epoch; beyond an int64 for years after 2262
	Nlink        uint64            `json:"nlink"`
	Ino          uint64            `json:"ino"`
	Target       string            `json:"target,omitempty"`
	TargetB64    []byte            `json:"target_b64,omitempty"`
	Rdev         string            `json:"rdev,omitempty"`
	Xattrs       map[string]string `json:"xattrs,omitempty"` // values in base64; encoding/json sorts by name
	SHA256       string            `json:"sha256,omitempty"`
	SparseSHA256 string            `json:"sparse_sha256,omitempty"`

	raw string // the path's bytes, the sort key
}

// Manifest describes everything below dir, a mounted directory, as `imgtool manifest` describes an image: one JSON
// object a line for every path, sorted by the path's raw bytes ("." for dir itself, sorted like any other),
// subvolumes entered.
//
// JSON is as Go's encoding/json writes it without HTML escapes. Sizes are st_size, also of directories. The
// placeholder of an absent nested subvolume (inode 2) has no time of its own: the kernel shows the moment at which
// it was looked up, a manifest shows mtime 0.
func Manifest(t testing.TB, dir string) []byte {
	t.Helper()
	var w manifestWalk
	if err := w.root(dir); err != nil {
		t.Fatalf("oracle: manifest of %s: %v", dir, err)
	}
	slices.SortFunc(w.entries, func(a, b entry) int { return strings.Compare(a.raw, b.raw) })
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	for _, e := range w.entries {
		if err := enc.Encode(e); err != nil {
			t.Fatalf("oracle: manifest of %s: %v", e.raw, err)
		}
	}
	return out.Bytes()
}

// manifestWalk goes through a tree by directory descriptors, so that no path is too long for it. Each name is
// reached as /proc/self/fd/N/name, which also suits the xattr calls, that have no form relative to a descriptor.
type manifestWalk struct {
	entries []entry
}

func (w *manifestWalk) root(dir string) error {
	if err := w.add(".", dir); err != nil {
		return err
	}
	return w.children("", dir)
}

// children adds everything below the directory that the system calls reach as sys and that the manifest names rel
// ("" for the root).
func (w *manifestWalk) children(rel, sys string) error {
	fd, err := unix.Open(sys, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NOATIME, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", rel, err)
	}
	defer unix.Close(fd)
	names, err := dirNames(fd)
	if err != nil {
		return fmt.Errorf("reading directory %s: %w", rel, err)
	}
	for _, name := range names {
		childRel, childSys := name, fmt.Sprintf("/proc/self/fd/%d/%s", fd, name)
		if rel != "" {
			childRel = rel + "/" + name
		}
		if err := w.add(childRel, childSys); err != nil {
			return err
		}
		if w.entries[len(w.entries)-1].Type == "dir" {
			if err := w.children(childRel, childSys); err != nil {
				return err
			}
		}
	}
	return nil
}

// dirNames reads a whole directory without "." and "..".
func dirNames(fd int) ([]string, error) {
	var names []string
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return names, err
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

// add appends the line of one path.
func (w *manifestWalk) add(rel, sys string) error {
	var st unix.Stat_t
	if err := unix.Lstat(sys, &st); err != nil {
		return fmt.Errorf("lstat %s: %w", rel, err)
	}
	e := entry{
		raw:   rel,
		Type:  typeName(st.Mode),
		Mode:  fmt.Sprintf("%04o", st.Mode&0o7777),
		UID:   st.Uid,
		GID:   st.Gid,
		Size:  st.Size,
		Mtime: nanoseconds(st.Mtim),
		Nlink: uint64(st.Nlink),
		Ino:   st.Ino,
	}
	if e.Type == "dir" && st.Ino == inoPlaceholder {
		e.Mtime = "0"
	}
	e.Path, e.PathB64 = textOrBytes(rel)
	var err error
	switch e.Type {
	case "symlink":
		var target string
		if target, err = readlink(sys); err == nil {
			e.Target, e.TargetB64 = textOrBytes(target)
		}
	case "block", "char":
		e.Rdev = fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	case "file":
		e.SHA256, e.SparseSHA256, err = hashFile(sys, st.Size)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", rel, err)
	}
	if e.Xattrs, err = xattrs(sys); err != nil {
		return fmt.Errorf("xattrs of %s: %w", rel, err)
	}
	w.entries = append(w.entries, e)
	return nil
}

func typeName(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "file"
	case unix.S_IFDIR:
		return "dir"
	case unix.S_IFLNK:
		return "symlink"
	case unix.S_IFBLK:
		return "block"
	case unix.S_IFCHR:
		return "char"
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFSOCK:
		return "socket"
	}
	return fmt.Sprintf("unknown %#o", mode&unix.S_IFMT) // compared like any other text, so it shows up in a diff
}

func nanoseconds(ts unix.Timespec) json.Number {
	ns := new(big.Int).Mul(big.NewInt(ts.Sec), big.NewInt(1_000_000_000))
	return json.Number(ns.Add(ns, big.NewInt(ts.Nsec)).String())
}

// textOrBytes chooses the key for a name: as it is, or in base64 where it is not UTF-8.
func textOrBytes(name string) (string, []byte) {
	if utf8.ValidString(name) {
		return name, nil
	}
	return "", []byte(name)
}

func readlink(path string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlink(path, buf)
	return string(buf[:max(n, 0)]), err
}

// xattrs reads all extended attributes, in base64.
func xattrs(path string) (map[string]string, error) {
	list, err := grow(func(b []byte) (int, error) { return unix.Llistxattr(path, b) })
	if err != nil || len(list) == 0 {
		return nil, err
	}
	all := make(map[string]string)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		value, err := grow(func(b []byte) (int, error) { return unix.Lgetxattr(path, name, b) })
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all[name] = base64.StdEncoding.EncodeToString(value)
	}
	return all, nil
}

// grow calls get with larger and larger buffers until the answer fits.
func grow(get func([]byte) (int, error)) ([]byte, error) {
	for size := 256; ; size *= 2 {
		b := make([]byte, size)
		n, err := get(b)
		if err == nil {
			return b[:n], nil
		}
		if err != unix.ERANGE || size > 1<<20 {
			return nil, err
		}
	}
}

// ManifestDiff compares two manifests line by line and shows the first few differences, each path with the line of a
// ("-") and of b ("+"). It returns "" if they are equal.
func ManifestDiff(a, b []byte) string {
	const show = 8
	if bytes.Equal(a, b) {
		return ""
	}
	la, lb := slices.Collect(bytes.Lines(a)), slices.Collect(bytes.Lines(b))
	var out strings.Builder
	fmt.Fprintf(&out, "manifests differ (%d lines against %d):\n", len(la), len(lb))
	differing := 0
	report := func(sign string, line []byte) {
		if differing++; differing <= show {
			fmt.Fprintf(&out, "%s %s\n", sign, bytes.TrimSuffix(line, []byte("\n")))
		}
	}
	for len(la) > 0 || len(lb) > 0 {
		// Both are sorted by path: the side whose path comes first has a line that the other lacks.
		order := 0
		switch {
		case len(lb) == 0:
			order = -1
		case len(la) == 0:
			order = 1
		default:
			order = strings.Compare(linePath(la[0]), linePath(lb[0]))
		}
		if order != 0 || !bytes.Equal(la[0], lb[0]) {
			if order <= 0 {
				report("-", la[0])
			}
			if order >= 0 {
				report("+", lb[0])
			}
		}
		if order <= 0 {
			la = la[1:]
		}
		if order >= 0 {
			lb = lb[1:]
		}
	}
	if differing > show {
		fmt.Fprintf(&out, "... and %d more differing lines\n", differing-show)
	}
	return out.String()
}

// linePath returns the raw path of a manifest line; a line that is no JSON object is its own path.
func linePath(line []byte) string {
	var e entry
	if json.Unmarshal(line, &e) != nil {
		return string(line)
	}
	return e.Path + string(e.PathB64)
}

// ManifestOf is Manifest of a directory of the mount ("" for its root).
func (m *Mounted) ManifestOf(dir string) []byte {
	m.t.Helper()
	return Manifest(m.t, filepath.Join(m.Dir, dir))
}
