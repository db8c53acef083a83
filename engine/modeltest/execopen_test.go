package modeltest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

const maxOpen = 4

// openFile opens a file and keeps it.
func (c *client) openFile(ctx context.Context, o op, n *note, s spot) error {
	if len(c.open) >= maxOpen {
		n.idle = true
		return nil
	}
	f, err := s.tree.Open(ctx, s.n.ino)
	if ok, err := c.judge(o, n, nil, err, nil); !ok {
		return err
	}
	c.open = append(c.open, handle{file: f, tree: s.tree, vol: s.volName, id: s.v.id, ino: s.n.ino})
	return nil
}

// tryOpen uses or closes an open file.
func (c *client) tryOpen(o op, n *note) error {
	if len(c.open) == 0 {
		n.idle = true
		return nil
	}
	i := int(o.a % uint32(len(c.open)))
	h := &c.open[i]
	n.what = fmt.Sprintf("%s inode %d", h.vol, h.ino)
	if o.kind == opCloseFile {
		return c.step(nil, func() (state, error) {
			err := h.file.Close()
			c.open = slices.Delete(c.open, i, i+1)
			_, err = c.judge(o, n, nil, err, nil)
			return c.now, err
		})
	}
	v := c.now[h.vol]
	if v != nil && v.id != h.id {
		v = nil
	}
	x := h.node
	if x == nil {
		x = v.nodes[h.ino]
	}
	off, count := span(o.c, o.d)
	count = min(count, int(maxFile-off))
	set := func(data []byte) state {
		y := *x
		y.data, y.mtime = data, nil
		if h.node != nil {
			for i := range c.open {
				if g := &c.open[i]; g.id == h.id && g.ino == h.ino {
					g.node = &y
				}
			}
			return c.now
		}
		e := v.edit()
		e.node(h.ino)
		e.v.nodes[h.ino] = &y
		return c.now.with(h.vol, e.v)
	}
	n.what += fmt.Sprintf(" [%d, %d), %d bytes, named %v", off, off+int64(count), len(x.data), h.node == nil)
	return c.useOpen(o, n, h, v, x, off, count, set)
}

// useOpen writes, truncates or reads through an open file.
func (c *client) useOpen(o op, n *note, h *handle, v *vol, x *node, off int64, count int, set func([]byte) state) error {
	var fatal error
	switch o.b % 4 {
	case 0, 1:
		p := content(o.c+o.d, count)
		if h.node == nil {
			ino := h.ino // h is reused
			at := spot{volName: h.vol, v: v, tree: h.tree, n: x}
			setVol := func(data []byte) func() *vol {
				return func() *vol {
					e := v.edit()
					y := e.node(ino)
					y.data, y.mtime = data, nil
					return e.v
				}
			}
			return c.write(context.Background(), o, n, at, setVol, p, off, func() error {
				_, err := h.file.WriteAt(p, off)
				return err
			})
		}
		_ = c.step(nil, func() (state, error) {
			_, err := h.file.WriteAt(p, off)
			ok, err := c.judge(o, n, v, err, nil)
			if fatal = err; err == nil && !ok { // for want of space, or by a fault: how far has it come?
				is, err := loadInode(context.Background(), h.tree, h.ino)
				if ok, fatal = c.judge(op{kind: opRead}, n, nil, err, nil); !ok {
					return nil, fserr.ErrInvalid
				}
				return set(is.data), nil
			}
			if !ok {
				return nil, fserr.ErrInvalid
			}
			return set(write(x.data, p, off)), nil
		})
		return fatal
	case 2:
		_ = c.step(nil, func() (state, error) {
			ok, err := c.judge(o, n, v, h.file.Truncate(off), nil)
			if fatal = err; !ok {
				return nil, fserr.ErrInvalid
			}
			return set(resize(x.data, off)), nil
		})
		return fatal
	}
	p := make([]byte, len(x.data)+1)
	got, err := h.file.ReadAt(p, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if ok, err := c.judge(o, n, v, err, nil); !ok {
		return err
	}
	if d := diffData(x.data, p[:got]); d != "" {
		return errors.New("read through an open file: " + d)
	}
	return nil
}

// closeOf closes the open files of a volume that is about to go.
func (c *client) closeOf(o op, n *note, id ondisk.TreeID) error {
	for i := len(c.open) - 1; i >= 0; i-- {
		if id != 0 && c.open[i].id != id {
			continue
		}
		err := c.open[i].file.Close()
		c.open = slices.Delete(c.open, i, i+1)
		if _, err := c.judge(o, n, nil, err, nil); err != nil {
			return err
		}
	}
	return nil
}

// tryRead reads one thing and compares it.
func (c *client) tryRead(ctx context.Context, o op, n *note, s spot) error {
	switch o.kind {
	case opWalk:
		return c.walk(ctx, o, n, s.volName)
	case opView:
		return c.view(ctx, o, n, s.volName)
	case opList:
		return c.list(ctx, o, n, s)
	}
	if !s.settle(n, (*node).isReg) {
		n.idle = true
		return nil
	}
	off, count := span(o.c, o.d)
	p := make([]byte, count)
	got, err := s.tree.ReadAt(ctx, s.n.ino, p, off)
	want := s.n.data[min(off, int64(len(s.n.data))):]
	want = want[:min(count, len(want))]
	if len(want) < count && err == nil {
		return fmt.Errorf("read of [%d, %d) of %d bytes without io.EOF", off, off+int64(count), len(s.n.data))
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if ok, err := c.judge(o, n, nil, err, nil); !ok {
		return err
	}
	if d := diffData(want, p[:got]); d != "" {
		return fmt.Errorf("read at %d of inode %d: %s", off, s.n.ino, d)
	}
	return nil
}

// list compares one directory, and one inode.
func (c *client) list(ctx context.Context, o op, n *note, s spot) error {
	list, err := s.tree.Entries(ctx, s.dir)
	if ok, err := c.judge(o, n, nil, err, nil); !ok {
		return err
	}
	got := map[string]ondisk.ObjectID{}
	for _, e := range list {
		got[e.Name] = e.Ino()
	}
	if want := s.v.nodes[s.dir].entries; !maps.Equal(got, want) {
		return fmt.Errorf("directory %d holds %v, want %v", s.dir, got, want)
	}
	if s.n == nil || s.n.isDir() {
		return nil
	}
	x, err := loadInode(ctx, s.tree, s.n.ino)
	if ok, err := c.judge(o, n, nil, err, nil); !ok {
		return err
	}
	if d := diffNodes(s.n, x); d != "" {
		return fmt.Errorf("inode %d: %s", s.n.ino, d)
	}
	return nil
}
