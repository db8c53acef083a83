package main

import (
	"bufio"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
)

func (a *app) statCmd() *cobra.Command {
	return &cobra.Command{
		Use: "stat IMAGE PATH...", Short: "show what is known of files", Args: args(2, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return a.read(ctx, args[0], func(s *session) error {
				w := bufio.NewWriter(a.out)
				for _, path := range args[1:] {
					n, err := s.find(ctx, path, false)
					if err != nil {
						return err
					}
					name := quoted(path)
					if n.isSymlink() {
						target, err := n.Tree.Readlink(ctx, n.Ino)
						if err != nil {
							return fmt.Errorf("%s: %w", path, err)
						}
						name += " -> " + quoted(target)
					}
					xattrs, err := n.Tree.Xattrs(ctx, n.Ino)
					if err != nil {
						return fmt.Errorf("%s: %w", path, err)
					}
					printStat(w, n, name, xattrs)
				}
				return w.Flush()
			})
		},
	}
}

// printStat prints one inode in the manner of stat(1), with what only btrfs has behind it.
func printStat(w *bufio.Writer, n *node, name string, xattrs []inode.Xattr) {
	it := &n.item
	fmt.Fprintf(w, "  File: %s\n", name)
	fmt.Fprintf(w, "  Size: %-15d Bytes on disk: %-12d %s\n", it.Size(), it.NBytes(), typeName(it.Mode()))
	fmt.Fprintf(w, "Subvol: %-15d Inode: %-12d Links: %d", uint64(n.Tree.ID()), uint64(n.Ino), it.NLink())
	if t := it.Mode() & ondisk.ModeFmt; t == ondisk.ModeChr || t == ondisk.ModeBlk {
		major, minor := inode.SplitRdev(it.Rdev())
		fmt.Fprintf(w, "  Device type: %d,%d", major, minor)
	}
	fmt.Fprintf(w, "\nAccess: (%04o/%s)  Uid: %d  Gid: %d\n", it.Mode()&ondisk.ModePerm, modeString(it.Mode()), it.UID(), it.GID())
	const layout = "2006-01-02 15:04:05.000000000 -0700"
	for _, t := range []struct {
		name string
		at   ondisk.Timespec
	}{{"Access", it.ATime()}, {"Modify", it.MTime()}, {"Change", it.CTime()}, {" Birth", it.OTime()}} {
		fmt.Fprintf(w, "%s: %s\n", t.name, t.at.Time().Local().Format(layout))
	}
	fmt.Fprintf(w, " Btrfs: generation %d, transid %d, flags %s\n", uint64(it.Generation()), uint64(it.TransID()), inodeFlags(it.Flags()))
	for _, x := range xattrs {
		fmt.Fprintf(w, " Xattr: %s (%d bytes)\n", quoted(x.Name), len(x.Value))
	}
}

func typeName(mode uint32) string {
	switch mode & ondisk.ModeFmt {
	case ondisk.ModeReg:
		return "regular file"
	case ondisk.ModeDir:
		return "directory"
	case ondisk.ModeLnk:
		return "symbolic link"
	case ondisk.ModeChr:
		return "character device"
	case ondisk.ModeBlk:
		return "block device"
	case ondisk.ModeFifo:
		return "fifo"
	case ondisk.ModeSock:
		return "socket"
	}
	return "unknown type"
}

func inodeFlags(flags uint64) string {
	var names []string
	for _, f := range []ondisk.FeatureName{
		{Bit: ondisk.InodeNoDataSum, Name: "NODATASUM"}, {Bit: ondisk.InodeNoDataCow, Name: "NODATACOW"},
		{Bit: ondisk.InodeReadonly, Name: "READONLY"}, {Bit: ondisk.InodeNoCompress, Name: "NOCOMPRESS"},
		{Bit: ondisk.InodePrealloc, Name: "PREALLOC"}, {Bit: ondisk.InodeSync, Name: "SYNC"},
		{Bit: ondisk.InodeImmutable, Name: "IMMUTABLE"}, {Bit: ondisk.InodeAppend, Name: "APPEND"},
		{Bit: ondisk.InodeNoDump, Name: "NODUMP"}, {Bit: ondisk.InodeNoAtime, Name: "NOATIME"},
		{Bit: ondisk.InodeDirSync, Name: "DIRSYNC"}, {Bit: ondisk.InodeCompress, Name: "COMPRESS"},
		{Bit: ondisk.InodeRootInit, Name: "ROOT_ITEM_INIT"}, {Bit: ondisk.InodeROVerity, Name: "VERITY"},
	} {
		if flags&f.Bit != 0 {
			names = append(names, f.Name)
			flags &^= f.Bit
		}
	}
	if flags != 0 {
		names = append(names, fmt.Sprintf("0x%x", flags))
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, "|")
}
