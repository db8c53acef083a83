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
is a directory. With -r PATH is a directory that is copied with all that is in it.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, dest := cmd.Context(), args[2]
			return a.read(ctx, args[0], func(s *session) error {
				n, err := s.find(ctx, args[1], true)
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
				return a.getFile(ctx, n, dest)
			})
		},
	}
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "copy a directory with what is in it")
	return cmd
}

// getFile copies one file's content, mode and time.
func (a *app) getFile(ctx context.Context, n *node, dest string) (err error) {
	in, err := inode.OpenFile(ctx, n.Tree, n.Ino)
	if err != nil {
		return err
	}
	if dest == "-" {
		_, err := io.Copy(a.out, in)
		return err
	}
	mode := os.FileMode(n.item.Mode() & 0o777)
	out, err := os.OpenFile(dest, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	bar := a.progress("get "+filepath.Base(dest), n.item.Size())
	_, err = io.Copy(bar.writer(out), in)
	bar.stop()
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	return os.Chtimes(dest, n.item.ATime().Time(), n.item.MTime().Time())
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
