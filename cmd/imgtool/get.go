package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	"github.com/spf13/cobra"

	"imgtool/engine/copytree"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
)

func (a *app) getCmd() *cobra.Command {
	var recursive bool
	cmd := &cobra.Command{
		Use: "get [-r] IMAGE PATH DEST", Short: "copy a file or directory out of an image", Args: args(3, 3),
		Long: `Copy the file PATH of the image to DEST on the host (- is standard output), or into DEST if that
is a directory; a file that is there is replaced. With -r PATH is a directory that is copied with
all that is in it. Data, holes, extended attributes, modes, times and, for root, owners are carried
over; a symbolic link is copied as a link, and a device as a device.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, dest := cmd.Context(), args[2]
			return a.read(ctx, args[0], func(s *session) error {
				n, err := s.find(ctx, args[1], recursive || dest == "-")
				if err != nil {
					return err
				}
				if st, err := os.Stat(dest); err == nil && st.IsDir() {
					dest = filepath.Join(dest, path.Base(path.Clean("/"+args[1])))
				}
				switch {
				case recursive && !n.isDir():
					return &advice{fmt.Errorf("%s: %w", args[1], fserr.ErrNotDir), "leave -r out to copy one file"}
				case recursive:
					return a.getTree(ctx, s, n, dest)
				case n.isDir():
					return &advice{fmt.Errorf("%s: %w", args[1], fserr.ErrIsDir), "-r copies a directory"}
				}
				return a.getFile(ctx, s, n, dest)
			})
		},
	}
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "copy a directory with what is in it")
	return cmd
}

// getFile copies one file. Into a device or pipe of the host goes its content.
func (a *app) getFile(ctx context.Context, s *session, n *node, dest string) error {
	if dest == "-" {
		return getStream(ctx, n, a.out)
	}
	if st, err := os.Stat(dest); err == nil {
		if !st.Mode().IsRegular() {
			out, err := os.OpenFile(dest, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			return errors.Join(getStream(ctx, n, out), out.Close())
		}
		if dest, err = filepath.EvalSymlinks(dest); err != nil { // the file is replaced, not a link to it
			return err
		}
	}
	bar := a.progress("get "+filepath.Base(dest), n.item.Size())
	defer bar.stop()
	_, err := copytree.ExportFile(ctx, s.ns, n.Node, dest, copytree.ExportOptions{
		Owners:   copytree.ExportOwners(),
		Progress: func(p copytree.Progress) { bar.update(p.Bytes) }, Warn: a.warn,
	})
	return err
}

// getStream writes a regular file's content to a stream.
func getStream(ctx context.Context, n *node, out io.Writer) error {
	in, err := inode.OpenFile(ctx, n.Tree, n.Ino)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return err
}

// getTree copies a directory to a new one on the host.
func (a *app) getTree(ctx context.Context, s *session, n *node, dest string) error {
	bar := a.progress("get "+dest, 0)
	defer bar.stop()
	_, err := copytree.Export(ctx, s.ns, n.Node, dest, copytree.ExportOptions{
		Owners:   copytree.ExportOwners(),
		Progress: func(p copytree.Progress) { bar.update(p.Bytes) }, Warn: a.warn,
	})
	return err
}
