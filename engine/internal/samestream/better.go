package samestream

import (
	"bytes"
	"regexp"
	"slices"

	"imgtool/engine/sendstream"
)

// The four kinds of difference where ours is what the snapshot holds and the kernel's, received, is not: see SetIDs,
// TopLast, GoneTimes and OldEnd. Each is taken out of both streams, so that whatever else differs still shows.

// temporary is the name of an inode that has none, or not yet.
var temporary = regexp.MustCompile(`^o\d+-\d+-\d+$`)

// dropGoneTimes takes out of the kernel's each utimes of a temporary name for which ours has none.
func dropGoneTimes(ours, kernels []sendstream.Command) (out []sendstream.Command, dropped bool) {
	known := map[string]bool{}
	for i := range ours {
		if c := &ours[i]; c.Cmd == sendstream.CmdUtimes {
			known[c.String(sendstream.AttrPath)] = true
		}
	}
	for i := range kernels {
		c := &kernels[i]
		if path := c.String(sendstream.AttrPath); c.Cmd == sendstream.CmdUtimes && temporary.MatchString(path) && !known[path] {
			dropped = true
			continue
		}
		out = append(out, *c)
	}
	return out, dropped
}

// dropSetIDs takes out of ours each chmod behind a chown of the same path, with bits that the chown has cleared, that the
// kernel does not have.
func dropSetIDs(ours, kernels []sendstream.Command) (out []sendstream.Command, dropped bool) {
	const setIDs = 0o6000
	theirs := map[string]int{}
	for i := range kernels {
		if c := &kernels[i]; c.Cmd == sendstream.CmdChmod {
			theirs[c.String(sendstream.AttrPath)]++
		}
	}
	for i := range ours {
		c := &ours[i]
		path := c.String(sendstream.AttrPath)
		if c.Cmd == sendstream.CmdChmod {
			if theirs[path]--; theirs[path] < 0 && c.Uint(sendstream.AttrMode)&setIDs != 0 && i > 0 &&
				ours[i-1].Cmd == sendstream.CmdChown && ours[i-1].String(sendstream.AttrPath) == path {
				dropped = true
				continue
			}
		}
		out = append(out, *c)
	}
	return out, dropped
}

// dropTop takes the inherited attributes of the top directory out of both streams if ours has them as it is to have them: what
// the kernel's sets, or leaves as it is, is set behind the last command that makes an inode, and nothing but removals stands
// before the first.
func dropTop(ours, kernels []sendstream.Command) (a, b []sendstream.Command, dropped bool) {
	made := func(c sendstream.Command) bool {
		switch c.Cmd {
		case sendstream.CmdMkfile, sendstream.CmdMkdir, sendstream.CmdMknod, sendstream.CmdMkfifo, sendstream.CmdMksock, sendstream.CmdSymlink:
			return true
		}
		return false
	}
	first := slices.IndexFunc(ours, made)
	last := len(ours) - 1
	for last >= 0 && !made(ours[last]) {
		last--
	}
	removed, result, want := map[string]bool{}, map[string][]byte{}, map[string][]byte{}
	for i := range ours {
		c := &ours[i]
		name := inherited(c)
		switch {
		case name == "":
			a = append(a, *c)
		case c.Cmd == sendstream.CmdRemoveXattr && (i < first || i > last):
			removed[name] = true
		case c.Cmd == sendstream.CmdSetXattr && i > last:
			result[name] = c.Bytes(sendstream.AttrXattrData)
		default:
			return ours, kernels, false
		}
	}
	for i := range kernels {
		c := &kernels[i]
		name := inherited(c)
		switch {
		case name == "":
			b = append(b, *c)
		case c.Cmd == sendstream.CmdSetXattr:
			want[name] = c.Bytes(sendstream.AttrXattrData)
		case !removed[name] || result[name] != nil:
			return ours, kernels, false
		default:
			removed[name] = false
		}
	}
	for name, value := range want {
		if !bytes.Equal(result[name], value) {
			return ours, kernels, false
		}
		removed[name] = false
		delete(result, name)
	}
	for name := range result { // as the parent has it: taken away and given back
		if !removed[name] {
			return ours, kernels, false
		}
		removed[name] = false
	}
	for _, still := range removed {
		if still {
			return ours, kernels, false
		}
	}
	return a, b, len(a) != len(ours) || len(b) != len(kernels)
}

// dropOldEnds takes out of ours the data of one sector, or of its beginning, where the kernel's has none: once a file.
func dropOldEnds(ours []sendstream.Command, kernels []line) (out []sendstream.Command, dropped bool) {
	const sector = 4096
	done := map[string]bool{}
	for i := range ours {
		l, ok := dataOf(&ours[i])
		if ok && l.from%sector == 0 && l.to-l.from <= sector && !done[l.path] && !slices.ContainsFunc(kernels, l.overlaps) {
			done[l.path], dropped = true, true
			continue
		}
		out = append(out, ours[i])
	}
	return out, dropped
}

// inherited is the name of the attribute of the top directory that a command changes, if inodes made there inherit it.
func inherited(c *sendstream.Command) string {
	if c.Cmd != sendstream.CmdSetXattr && c.Cmd != sendstream.CmdRemoveXattr || c.String(sendstream.AttrPath) != "" {
		return ""
	}
	switch name := c.String(sendstream.AttrXattrName); name {
	case "system.posix_acl_default", "btrfs.compression":
		return name
	}
	return ""
}
