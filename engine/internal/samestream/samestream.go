// Package samestream compares our send streams with the kernel's, for tests.
package samestream

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"imgtool/engine/sendstream"
)

// Likeness is how close our stream is to the kernel's of the same snapshots. All kinds of difference that are accepted
// stand here, each with its reason; whatever else differs is a failure.
type Likeness int

const (
	// SameBytes: as it should be.
	SameBytes Likeness = iota
	// SameRanges: the same commands in the same order, but data comes in other pieces or from another place. Where a file
	// has several places with the same data any of them may be cloned from, and what is cloned in one piece from one may
	// take two from another. Before the kernel clones an end that is no multiple of the sector size it cuts the file off
	// there (a truncate to where the data goes on), and it does not where it writes.
	SameRanges
	// ShortInline: the kernel forgets what follows a compressed inline extent that unpacks to less than its range: data
	// behind it, or the file's size. What it sends is not what the snapshot holds; ours is, as the manifests tell.
	ShortInline
	// SetIDs: behind a chown of a file whose set-id bits stay as they were, ours has a chmod. The kernel's receiver loses the
	// bits with the owner.
	SetIDs
	// TopLast: what new inodes inherit from the top directory, where all of them are made, ours takes away before the first and
	// sets behind the last. In the kernel's stream it is there, and the kernel's receiver gives it to inodes that had none.
	TopLast
	// GoneTimes: the kernel sets the times of a directory that is gone, under a temporary name that nothing has, where a
	// directory left it while waiting for another one and its number is another directory's now. No receiver takes that.
	GoneTimes
	// OldEnd: a file that the parent has shorter, cut off within a sector of an extent that both trees have there. The kernel
	// takes that sector for the same, but the receiver has zeros in it behind the parent's end; ours sends it.
	OldEnd
	Different
)

func (l Likeness) String() string {
	return [...]string{"the same bytes", "data from another place", "inline extents the kernel cuts short",
		"set-id bits the kernel loses", "attributes of the top that new inodes inherit", "times of a directory that is gone",
		"the sector of the parent's end", "different"}[l]
}

// Commands parses a stream.
func Commands(t testing.TB, stream []byte) (list []sendstream.Command) {
	t.Helper()
	r := sendstream.NewReader(bytes.NewReader(stream))
	if err := r.Begin(); err != nil {
		t.Fatal(err)
	}
	for {
		c, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		own := sendstream.Command{Cmd: c.Cmd, Offset: c.Offset}
		for _, a := range c.Attrs {
			own.Attrs = append(own.Attrs, sendstream.Attr{Type: a.Type, Value: bytes.Clone(a.Value)})
		}
		list = append(list, own)
		if c.Cmd == sendstream.CmdEnd {
			return list
		}
	}
}

// line is a command as it is compared: data as the range of a file that it brings.
type line struct {
	text     string // of what is no data
	path     string // of data and truncate
	from, to uint64 // of data; from is also the size of a truncate
}

func (l line) String() string {
	if l.text != "" {
		return l.text
	}
	return fmt.Sprintf("data %q [%d, %d)", l.path, l.from, l.to)
}

// cuts reports whether l, a truncate, only makes way for the data behind it.
func (l line) cuts(data line) bool {
	return l.text != "" && l.path != "" && l.path == data.path && l.from == data.from
}

// overlaps reports whether both are data, and of the same place.
func (l line) overlaps(o line) bool {
	return l.text == "" && o.text == "" && l.path == o.path && l.from < o.to && o.from < l.to
}

// dataOf is the range of a file that a command brings; ok is false for one that brings no data.
func dataOf(c *sendstream.Command) (l line, ok bool) {
	l = line{path: c.String(sendstream.AttrPath), from: c.Uint(sendstream.AttrFileOffset)}
	switch c.Cmd {
	case sendstream.CmdWrite:
		l.to = l.from + uint64(len(c.Bytes(sendstream.AttrData)))
	case sendstream.CmdClone:
		l.to = l.from + c.Uint(sendstream.AttrCloneLen)
	case sendstream.CmdUpdateExtent:
		l.to = l.from + c.Uint(sendstream.AttrSize)
	case sendstream.CmdEncodedWrite:
		l.to = l.from + c.Uint(sendstream.AttrUnencodedFileLen)
	default:
		return l, false
	}
	return l, true
}

// lines puts data of one file that follows data of the same file together.
func lines(list []sendstream.Command) (out []line) {
	for i := range list {
		c := &list[i]
		l, ok := dataOf(c)
		if !ok {
			l.text = fmt.Sprintf("%v", c.Cmd)
			for _, a := range c.Attrs {
				l.text += fmt.Sprintf(" %v=%q", a.Type, a.Value)
			}
			if l.from, l.to = 0, 0; c.Cmd == sendstream.CmdTruncate {
				l.from = c.Uint(sendstream.AttrSize)
			} else {
				l.path = ""
			}
		}
		if n := len(out); l.text == "" && n > 0 && out[n-1].cuts(l) {
			out = out[:n-1]
		}
		if n := len(out); l.text == "" && n > 0 && out[n-1].text == "" && out[n-1].path == l.path && out[n-1].to == l.from {
			out[n-1].to = l.to
			continue
		}
		out = append(out, l)
	}
	return out
}

// cutShort are the files whose data begins with a compressed inline extent.
func cutShort(list []sendstream.Command) map[string]bool {
	files := map[string]bool{}
	for i := range list {
		c := &list[i]
		if c.Cmd == sendstream.CmdEncodedWrite && c.Uint(sendstream.AttrFileOffset) == 0 && c.Uint(sendstream.AttrUnencodedFileLen) < 4096 {
			files[c.String(sendstream.AttrPath)] = true
		}
	}
	return files
}

// Compare returns how alike our stream and the kernel's are, and the first lines that differ.
func Compare(t testing.TB, ours, kernels []byte) (Likeness, string) {
	t.Helper()
	if bytes.Equal(ours, kernels) {
		return SameBytes, ""
	}
	a, b := Commands(t, ours), Commands(t, kernels)
	alike := SameRanges
	var drops bool
	if a, drops = dropSetIDs(a, b); drops {
		alike = SetIDs
	}
	if a, b, drops = dropTop(a, b); drops {
		alike = TopLast
	}
	if b, drops = dropGoneTimes(a, b); drops {
		alike = GoneTimes
	}
	x, y := lines(a), lines(b)
	if slices.Equal(x, y) {
		return alike, ""
	}
	if a, drops := dropOldEnds(a, y); drops && slices.Equal(lines(a), y) {
		return OldEnd, firstDifference(x, y)
	}
	where := firstDifference(x, y)
	short := cutShort(b)
	forgotten := func(l line) bool { return short[l.path] && l.path != "" }
	if slices.Equal(slices.DeleteFunc(x, forgotten), slices.DeleteFunc(y, forgotten)) {
		return ShortInline, where
	}
	return Different, where
}

func firstDifference(ours, kernels []line) string {
	i := 0
	for i < min(len(ours), len(kernels)) && ours[i] == kernels[i] {
		i++
	}
	window := func(l []line) (s string) {
		for _, l := range l[max(0, min(i, len(l))-4):min(i+5, len(l))] {
			s += "    " + l.String() + "\n"
		}
		return s
	}
	return fmt.Sprintf("from line %d:\nours:\n%sthe kernel's:\n%s", i, window(ours), window(kernels))
}
