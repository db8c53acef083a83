// Package mutate makes random changes below a mounted directory, for tests of send and receive.
package mutate

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Mutator makes random changes below a mounted directory, of the kinds that make incremental streams hard: names that
// change places, directories moved into one another, links, replaced files, clones, holes.
type Mutator struct {
	Dir  string         // below which it works; may be changed between steps
	N    int            // of the last new name
	Done map[string]int // by operation, those that did something
	Only string         // if not empty, the operations that are made, between spaces

	t   testing.TB
	rnd *rand.Rand
}

// New works below dir, with new names that are numbered behind first.
func New(t testing.TB, seed int64, first int, dir string) *Mutator {
	return &Mutator{t: t, N: first, rnd: rand.New(rand.NewPCG(uint64(seed), 5)), Dir: dir, Done: map[string]int{}}
}

// pick returns a random path below the directory that fits, "" if there is none.
func (m *Mutator) pick(fits func(os.FileInfo) bool) string {
	var all []string
	err := filepath.Walk(m.Dir, func(p string, st os.FileInfo, err error) error {
		if err == nil && p != m.Dir && fits(st) {
			all = append(all, p)
		}
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	if len(all) == 0 {
		return ""
	}
	return all[m.rnd.IntN(len(all))]
}

func isFile(st os.FileInfo) bool { return st.Mode().IsRegular() }
func isDir(st os.FileInfo) bool  { return st.IsDir() }
func isAny(os.FileInfo) bool     { return true }

// fresh is a new name in some directory.
func (m *Mutator) fresh() string {
	m.N++
	dir := m.pick(isDir)
	if dir == "" || m.rnd.IntN(3) == 0 {
		dir = m.Dir
	}
	return filepath.Join(dir, fmt.Sprintf("n %d", m.N))
}

// data is either random or compressible.
func (m *Mutator) data(n int) []byte {
	b := make([]byte, n)
	step := 1 + m.rnd.IntN(2)*499
	for i := 0; i < n; i += step {
		b[i] = byte(m.rnd.Uint32())
	}
	return b
}

// Steps makes n changes. What the file system refuses (a directory into itself) is passed over.
func (m *Mutator) Steps(n int) {
	ops := []struct {
		name string
		do   func() error
	}{
		{"create", func() error { return os.WriteFile(m.fresh(), m.data(m.rnd.IntN(3)*m.rnd.IntN(150000)), 0o640) }},
		{"small", func() error { return os.WriteFile(m.fresh(), m.data(m.rnd.IntN(2048)), 0o604) }},
		{"mkdir", func() error { return os.Mkdir(m.fresh(), 0o755) }},
		{"mkdir", func() error { return os.Mkdir(m.fresh(), 0o711) }},
		{"symlink", func() error { return os.Symlink("../some where", m.fresh()) }},
		{"mknod", func() error { return unix.Mknod(m.fresh(), unix.S_IFCHR|0o600, int(unix.Mkdev(300, 70000))) }},
		{"mkfifo", func() error { return unix.Mkfifo(m.fresh(), 0o600) }},
		{"link", func() error { return os.Link(m.pick(isFile), m.fresh()) }},
		{"rename", func() error { return os.Rename(m.pick(isAny), m.fresh()) }},
		{"replace", func() error { return os.Rename(m.pick(isFile), m.pick(isFile)) }},
		{"movedir", func() error { return os.Rename(m.pick(isDir), m.fresh()) }},
		{"exchange", func() error {
			return unix.Renameat2(unix.AT_FDCWD, m.pick(isAny), unix.AT_FDCWD, m.pick(isAny), unix.RENAME_EXCHANGE)
		}},
		{"remove", func() error { return os.Remove(m.pick(isAny)) }},
		{"retype", func() error {
			p := m.pick(isFile)
			if err := os.Remove(p); err != nil {
				return err
			}
			return os.Mkdir(p, 0o700)
		}},
		{"chmod", func() error { return unix.Chmod(m.pick(isFile), uint32(m.rnd.IntN(0o10000))) }},
		{"chown", func() error { return os.Lchown(m.pick(isAny), m.rnd.IntN(9), m.rnd.IntN(9)) }},
		{"xattr", func() error {
			return unix.Lsetxattr(m.pick(isFile), fmt.Sprint("user.x", m.rnd.IntN(3)), m.data(m.rnd.IntN(99)), 0)
		}},
		{"unxattr", func() error { return unix.Lremovexattr(m.pick(isFile), fmt.Sprint("user.x", m.rnd.IntN(3))) }},
		{"write", m.onFile(func(f *os.File, size int64) error {
			_, err := f.WriteAt(m.data(1+m.rnd.IntN(90000)), m.at(size))
			return err
		})},
		{"truncate", m.onFile(func(f *os.File, size int64) error { return f.Truncate(m.at(size * 2)) })},
		{"falloc", m.onFile(func(f *os.File, size int64) error {
			return unix.Fallocate(int(f.Fd()), uint32(m.rnd.IntN(2)), m.at(size*2), 1+m.at(100000))
		})},
		{"punch", m.onFile(func(f *os.File, size int64) error {
			return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, m.at(size), 1+m.at(100000))
		})},
		{"clone", m.onFile(m.clone)},
		{"clone", m.onFile(m.clone)},
	}
	for range n {
		o := ops[m.rnd.IntN(len(ops))]
		for m.Only != "" && !strings.Contains(m.Only, " "+o.name+" ") {
			o = ops[m.rnd.IntN(len(ops))]
		}
		if err := o.do(); err == nil {
			m.Done[o.name]++
		}
	}
}

func (m *Mutator) at(size int64) int64 { return m.rnd.Int64N(size + 1) }

// onFile runs fn on an open file.
func (m *Mutator) onFile(fn func(f *os.File, size int64) error) func() error {
	return func() error {
		f, err := os.OpenFile(m.pick(isFile), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return err
		}
		return fn(f, st.Size())
	}
}

// clone shares a range of one file with another, or with itself elsewhere; sometimes all of it.
func (m *Mutator) clone(dst *os.File, size int64) error {
	src, err := os.Open(m.pick(isFile))
	if err != nil {
		return err
	}
	defer src.Close()
	if m.rnd.IntN(2) == 0 {
		return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd()))
	}
	r := unix.FileCloneRange{Src_fd: int64(src.Fd()), Src_offset: uint64(m.at(16)) << 12, Src_length: uint64(1+m.at(8)) << 12,
		Dest_offset: uint64(m.at(size>>12+4)) << 12}
	return unix.IoctlFileCloneRange(int(dst.Fd()), &r)
}
