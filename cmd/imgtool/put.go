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
	"syscall"

	"github.com/spf13/cobra"

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
a directory; a file that is there is replaced. With -r SOURCE is a directory that is copied
with all that is in it: data, holes, links, devices, extended attributes, owners, modes, times.`,
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
	_, err = copytree.Import(ctx, d.tree, ino, source, copytree.ImportOptions{
		TopAttrs: true, Progress: func(p copytree.Progress) { bar.update(p.Bytes) },
	})
	return err
}

// putFile copies one file, or standard input, over what may be there.
func (a *app) putFile(ctx context.Context, s *session, source, dest string) error {
	in, attr, length := io.Reader(&patient{ctx: ctx, in: a.in}), inode.Attr{Mode: 0o644}, int64(-1)
	if source != "-" {
		f, err := os.Open(source)
		if err != nil {
			return err
		}
		defer f.Close() // only read
		st, err := f.Stat()
		if err != nil {
			return err
		}
		if st.IsDir() {
			return &advice{fmt.Errorf("%s: %w", source, fserr.ErrIsDir), "-r copies a directory"}
		}
		in, length = f, st.Size()
		attr = hostAttr(st)
	}
	d, err := s.findParent(ctx, dest)
	if err != nil {
		return err
	}
	if e, err := d.tree.Lookup(ctx, d.dir, d.name); err == nil && e.Type != ondisk.FTReg {
		return fmt.Errorf("%s: not a regular file: %w", dest, fs.ErrExist)
	}
	bar := a.progress("put "+source, uint64(max(length, 0)))
	defer bar.stop()
	if err := s.putAt(ctx, d, bar.reader(in), length, attr); err != nil {
		return fmt.Errorf("%s: %w", dest, err)
	}
	return nil
}

// putAt writes a new file and only then gives it its name, from whoever may have it: a large file takes more than one
// commit, and if it fails after the first, the old file must still be there.
func (s *session) putAt(ctx context.Context, d place, in io.Reader, length int64, attr inode.Attr) (err error) {
	began := s.DB().Durable()
	tmp := fmt.Sprintf(".imgtool-put-%x", rand.Uint64())
	ino, err := d.tree.Create(ctx, d.dir, tmp, attr)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil && s.DB().Err() == nil && s.DB().Durable() != began {
			ctx := context.WithoutCancel(ctx)
			err = errors.Join(err, d.tree.Unlink(ctx, d.dir, tmp), s.Commit(ctx))
		}
	}()
	if _, err := d.tree.CopyFrom(ctx, ino, 0, in, length); err != nil {
		return err
	}
	if attr.Times != nil {
		if err := d.tree.Utimes(ctx, ino, attr.Times.Access, attr.Times.Modify); err != nil {
			return err
		}
	}
	return d.tree.Rename(ctx, d.dir, tmp, d.dir, d.name, inode.RenameReplace)
}

// patient is a reader of a pipe or terminal that may wait for ever, and gives up when the context ends. The read that
// it then leaves behind ends with the program.
type patient struct {
	ctx  context.Context
	in   io.Reader
	buf  []byte
	rest []byte
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

// hostAttr takes over mode, owner and times of a file of the host.
func hostAttr(st fs.FileInfo) inode.Attr {
	sys := st.Sys().(*syscall.Stat_t)
	spec := func(t syscall.Timespec) ondisk.Timespec {
		return ondisk.Timespec{Sec: int64(t.Sec), Nsec: uint32(t.Nsec)}
	}
	access, modify, change := spec(sys.Atim), spec(sys.Mtim), spec(sys.Ctim)
	return inode.Attr{
		Mode: sys.Mode & ondisk.ModePerm, UID: sys.Uid, GID: sys.Gid,
		Times: &inode.Times{Access: access, Modify: modify, Change: change, Birth: modify},
	}
}
