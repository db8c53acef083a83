package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"imgtool/engine/copytree"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
)

func (a *app) putCmd() *cobra.Command {
	var recursive bool
	cmd := &cobra.Command{
		Use: "put [-r] IMAGE SOURCE DEST", Short: "copy a file or directory of the host into an image", Args: args(3, 3),
		Long: `Copy the host's file SOURCE (- is standard input) to DEST in the image, or into DEST if that is
a directory; a file that is there is replaced. With -r SOURCE is a directory that is copied with all that is in it.
Data, holes, extended attributes, owners, modes and times are carried over; a symbolic link is
copied as a link, and a device as a device.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, source := cmd.Context(), args[1]
			return a.write(ctx, args[0], func(s *session) error {
				name := source
				if source != "-" {
					abs, err := filepath.Abs(source) // "." has a name, too
					if err != nil {
						return err
					}
					name = abs
				}
				dest, err := s.into(ctx, args[2], filepath.ToSlash(name))
				if err != nil {
					return err
				}
				if recursive {
					return a.putTree(ctx, s, source, dest)
				}
				return a.putFile(ctx, s, source, dest)
			})
		},
	}
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "copy a directory with what is in it")
	return cmd
}

// putTree copies a directory of the host to a new one.
func (a *app) putTree(ctx context.Context, s *session, source, dest string) error {
	st, err := os.Stat(source)
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return &advice{fmt.Errorf("%s: %w", source, fserr.ErrNotDir), "leave -r out to copy one file"}
	}
	d, err := s.findParent(ctx, dest)
	if err != nil {
		return err
	}
	ino, err := d.tree.Mkdir(ctx, d.dir, d.name, inode.Attr{Mode: 0o755})
	if err != nil {
		return fmt.Errorf("%s: %w", dest, err)
	}
	bar := a.progress("put "+source, 0)
	defer bar.stop()
	image := inside(source, s.Name())
	_, err = copytree.Import(ctx, d.tree, ino, source, copytree.ImportOptions{
		TopAttrs: true, Progress: func(p copytree.Progress) { bar.update(p.Bytes) },
		Skip: func(rel string) bool { return rel == image },
	})
	return err
}

// putFile copies one file, or standard input, over what may be there.
func (a *app) putFile(ctx context.Context, s *session, source, dest string) error {
	var size int64
	if source != "-" {
		st, err := os.Lstat(source)
		if err != nil {
			return err
		}
		if st.IsDir() {
			return &advice{fmt.Errorf("%s: %w", source, fserr.ErrIsDir), "-r copies a directory"}
		}
		if st.Mode().IsRegular() {
			size = st.Size()
		}
	}
	d, err := s.findParent(ctx, dest)
	if err != nil {
		return err
	}
	if e, err := d.tree.Lookup(ctx, d.dir, d.name); err == nil && e.Type != ondisk.FTReg {
		return fmt.Errorf("%s: not a regular file: %w", dest, fs.ErrExist)
	}
	bar := a.progress("put "+source, uint64(size))
	defer bar.stop()
	err = s.putAt(ctx, d, func(tmp string) error {
		if source == "-" {
			return putStream(ctx, d, tmp, bar.reader(&patient{ctx: ctx, in: a.in}))
		}
		if stream, err := openStream(source); stream != nil || err != nil {
			if err != nil {
				return err
			}
			defer stream.Close() // only read
			return putStream(ctx, d, tmp, bar.reader(&patient{ctx: ctx, in: stream}))
		}
		_, err := copytree.ImportFile(ctx, d.tree, d.dir, tmp, source, copytree.ImportOptions{
			Progress: func(p copytree.Progress) { bar.update(p.Bytes) },
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", dest, err)
	}
	return nil
}

// openStream opens what a link leads to that stands for an open file of a process, as the shell's <(...) and /dev/stdin
// do, and returns nil for anything else.
func openStream(source string) (*os.File, error) {
	target, err := os.Readlink(source)
	if err != nil {
		return nil, nil // no link
	}
	var st unix.Statfs_t
	if dir := filepath.Dir(source); unix.Statfs(dir, &st) == nil && st.Type == unix.PROC_SUPER_MAGIC ||
		strings.HasPrefix(target, "/proc/self/fd/") {
		return os.Open(source)
	}
	return nil, nil
}

// putStream makes a file of what in gives.
func putStream(ctx context.Context, d place, name string, in io.Reader) error {
	ino, err := d.tree.Create(ctx, d.dir, name, inode.Attr{Mode: 0o644})
	if err != nil {
		return err
	}
	_, err = d.tree.CopyFrom(ctx, ino, 0, in, -1)
	return err
}

// putAt makes a new file and only then gives it its name, from whoever may have it: a large file takes more than one
// commit, and if it fails after the first, the old file must still be there.
func (s *session) putAt(ctx context.Context, d place, fill func(tmp string) error) (err error) {
	began := s.DB().Durable()
	tmp := fmt.Sprintf(".imgtool-put-%x", rand.Uint64())
	defer func() {
		if err != nil && s.DB().Err() == nil && s.DB().Durable() != began {
			ctx := context.WithoutCancel(ctx)
			if uerr := d.tree.Unlink(ctx, d.dir, tmp); !errors.Is(uerr, fs.ErrNotExist) { // it may not have come to be
				err = errors.Join(err, uerr, s.Commit(ctx))
			}
		}
	}()
	if err := fill(tmp); err != nil {
		return err
	}
	return d.tree.Rename(ctx, d.dir, tmp, d.dir, d.name, inode.RenameReplace)
}

// patient is a reader of a pipe or terminal that may wait for ever, and gives up when the context ends. The read that
// it then leaves behind ends with the program.
type patient struct {
	ctx   context.Context
	in    io.Reader
	exact bool // takes no more from in than is asked for, since somebody else reads what follows
	buf   []byte
	rest  []byte
}

func (p *patient) Read(b []byte) (int, error) {
	if len(p.rest) > 0 {
		n := copy(b, p.rest)
		p.rest = p.rest[n:]
		return n, nil
	}
	type result struct {
		n   int
		err error
	}
	if p.buf == nil {
		p.buf = make([]byte, 256<<10)
	}
	buf, done := p.buf, make(chan result, 1)
	if p.exact {
		buf = buf[:min(len(b), len(buf))]
	}
	go func() {
		n, err := p.in.Read(buf)
		done <- result{n, err}
	}()
	select {
	case r := <-done:
		n := copy(b, buf[:r.n])
		if p.rest = buf[n:r.n]; len(p.rest) > 0 {
			return n, nil // an error comes again
		}
		return n, r.err
	case <-p.ctx.Done():
		return 0, p.ctx.Err()
	}
}
