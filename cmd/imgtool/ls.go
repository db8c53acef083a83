package main

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
)

func (a *app) lsCmd() *cobra.Command {
	var l lister
	cmd := &cobra.Command{
		Use: "ls [-lR] IMAGE [PATH]...", Short: "list directories", Args: args(1, -1),
		Long: "List directories, the top one by default. Names that begin with a dot are shown like any other.",
		RunE: func(cmd *cobra.Command, args []string) error {
			l.ctx, l.w = cmd.Context(), bufio.NewWriter(a.out)
			paths := args[1:]
			if len(paths) == 0 {
				paths = []string{"/"}
			}
			l.titles = len(paths) > 1 || l.recursive
			return a.read(l.ctx, args[0], func(s *session) error {
				l.s = s
				for _, p := range paths {
					l.seen = inode.DirSet{}
					if err := l.path(p); err != nil {
						return err
					}
				}
				return l.w.Flush()
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&l.long, "long", "l", false, "print type, mode, links, owner, size and time")
	f.BoolVarP(&l.recursive, "recursive", "R", false, "list what is below, too")
	return cmd
}

// lister is one run of ls.
type lister struct {
	ctx             context.Context
	s               *session
	w               *bufio.Writer
	long, recursive bool
	seen            inode.DirSet
	titles          bool // a line with the directory's path above each list
	printed         int  // lists
}

// path lists what the user named: a directory's content, or anything else itself.
func (l *lister) path(p string) error {
	n, err := l.s.find(l.ctx, p, false)
	if err != nil {
		return err
	}
	if n.isDir() {
		return l.dir(n, p)
	}
	return l.entry(n, p)
}

func (l *lister) dir(n *node, p string) error {
	if l.recursive {
		if err := l.seen.Enter(n.Node); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	entries, err := n.Tree.Entries(l.ctx, n.Ino)
	if err != nil {
		return err
	}
	slices.SortFunc(entries, func(a, b inode.Entry) int { return cmp.Compare(a.Name, b.Name) })
	if l.titles {
		if l.printed++; l.printed > 1 {
			fmt.Fprintln(l.w)
		}
		fmt.Fprintf(l.w, "%s:\n", quoted(p))
	}
	var dirs []string
	for i := range entries {
		if !l.long && !l.recursive {
			fmt.Fprintln(l.w, quoted(entries[i].Name))
			continue
		}
		below := path.Join(p, entries[i].Name)
		child, err := l.s.child(l.ctx, n, &entries[i])
		if err != nil {
			return fmt.Errorf("%s: %w", below, err)
		}
		if err := l.entry(child, entries[i].Name); err != nil {
			return fmt.Errorf("%s: %w", below, err)
		}
		if child.isDir() {
			dirs = append(dirs, below)
		}
	}
	if !l.recursive {
		return nil
	}
	for _, d := range dirs {
		if err := l.path(d); err != nil {
			return err
		}
	}
	return nil
}

// entry prints one line.
func (l *lister) entry(n *node, name string) error {
	if !l.long {
		_, err := fmt.Fprintln(l.w, quoted(name))
		return err
	}
	it := &n.item
	size := fmt.Sprint(it.Size())
	switch it.Mode() & ondisk.ModeFmt {
	case ondisk.ModeChr, ondisk.ModeBlk:
		major, minor := inode.SplitRdev(it.Rdev())
		size = fmt.Sprintf("%d, %d", major, minor)
	}
	arrow := ""
	if n.isSymlink() {
		target, err := n.Tree.Readlink(l.ctx, n.Ino)
		if err != nil {
			return err
		}
		arrow = " -> " + quoted(target)
	}
	_, err := fmt.Fprintf(l.w, "%s %4d %-6d %-6d %10s %s %s%s\n", modeString(it.Mode()), it.NLink(), it.UID(), it.GID(), size,
		it.MTime().Time().Local().Format("2006-01-02 15:04:05"), quoted(name), arrow)
	return err
}

// quoted keeps a name on its line: control characters and backslashes are escaped as in Go and C.
func quoted(name string) string {
	if !strings.ContainsFunc(name, func(r rune) bool { return r < 0x20 || r == 0x7f || r == '\\' }) {
		return name
	}
	var b strings.Builder
	for i := range len(name) {
		switch c := name[i]; {
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\t':
			b.WriteString(`\t`)
		case c == '\\':
			b.WriteString(`\\`)
		case c < 0x20 || c == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// modeString prints a Unix mode as ls does.
func modeString(mode uint32) string {
	const types = "?pc?d?b?-?l?s???"
	b := []byte{types[mode>>12&15], '-', '-', '-', '-', '-', '-', '-', '-', '-'}
	for i, c := range []byte("rwxrwxrwx") {
		if mode>>(8-i)&1 != 0 {
			b[i+1] = c
		}
	}
	for i, special := range []struct {
		bit           uint32
		with, without byte
	}{{0o4000, 's', 'S'}, {0o2000, 's', 'S'}, {0o1000, 't', 'T'}} {
		if mode&special.bit == 0 {
			continue
		}
		if at := 3 * (i + 1); b[at] == 'x' {
			b[at] = special.with
		} else {
			b[at] = special.without
		}
	}
	return string(b)
}
