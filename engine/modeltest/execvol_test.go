package modeltest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"sync"

	"imgtool/engine/commitview"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
)

// shared are the read-only subvolumes that everybody may read.
type shared struct {
	sync.Mutex
	vols map[string]*sharedVol
}

// sharedVol is one of them. Whoever deletes it, or makes it writable, takes mu alone and sets gone.
type sharedVol struct {
	mu   sync.RWMutex
	v    *vol
	gone bool
}

func (s *shared) add(name string, v *vol) {
	s.Lock()
	defer s.Unlock()
	s.vols[name] = &sharedVol{v: v}
}

// remove takes one away and waits for its readers.
func (s *shared) remove(name string) {
	s.Lock()
	v := s.vols[name]
	delete(s.vols, name)
	s.Unlock()
	if v != nil {
		v.mu.Lock()
		v.gone = true
		v.mu.Unlock()
	}
}

func (s *shared) pick(n uint32) (string, *sharedVol) {
	s.Lock()
	defer s.Unlock()
	all := slices.Sorted(maps.Keys(s.vols))
	if len(all) == 0 {
		return "", nil
	}
	name := all[n%uint32(len(all))]
	return name, s.vols[name]
}

// tryVolume does an operation on whole subvolumes.
func (c *client) tryVolume(ctx context.Context, o op, n *note) error {
	switch o.kind {
	case opCommit:
		return c.commit(ctx, o, n)
	case opShared:
		return c.readShared(ctx, o, n)
	case opClean:
		return c.step(nil, func() (state, error) {
			_, err := c.judge(o, n, nil, c.w.fs.CleanSubvolumes(ctx), nil)
			return c.now, err
		})
	case opSnapshot:
		return c.snapshot(ctx, o, n)
	}
	name := volName(c.id, o.a)
	n.what = name
	v := c.now[name]
	var fatal error
	do := func(want error, next func() *vol, do func() error) error {
		_ = c.step(nil, func() (state, error) {
			ok, err := c.judge(o, n, nil, do(), want)
			if fatal = err; !ok {
				return nil, fserr.ErrInvalid
			}
			return c.now.with(name, next()), nil
		})
		return fatal
	}
	switch {
	case o.kind == opSubvolume:
		var want error
		if v != nil {
			want = fserr.ErrExist
		}
		var id ondisk.TreeID
		return do(want, func() *vol { return emptyVol(id) }, func() (err error) {
			id, err = c.w.fs.CreateSubvolume(ctx, name, subvol.CreateOptions{})
			return err
		})
	case v == nil && o.kind == opDelete:
		return do(fserr.ErrNotFound, nil, func() error { return c.w.fs.DeleteSubvolume(ctx, name) })
	case v == nil:
		n.idle = true
		return nil
	case o.kind == opDelete:
		if len(c.now) == 1 { // or there would be nothing to do any more
			n.idle = true
			return nil
		}
		if err := c.closeOf(o, n, v.id); err != nil {
			return err
		}
		c.w.shared.remove(name)
		err := do(nil, func() *vol { return nil }, func() error { return c.w.fs.DeleteSubvolume(ctx, name) })
		if c.now[name] != nil && v.ro {
			c.w.shared.add(name, v)
		}
		return err
	}
	return c.readonly(ctx, o, n, name, v)
}

func (c *client) readonly(ctx context.Context, o op, n *note, name string, v *vol) error {
	ro := !v.ro
	if err := c.closeOf(o, n, v.id); err != nil {
		return err
	}
	c.w.shared.remove(name)
	next := *v
	if next.ro = ro; !ro {
		thaw(&next)
	}
	var fatal error
	_ = c.step(nil, func() (state, error) {
		ok, err := c.judge(o, n, nil, c.w.fs.SetReadonly(ctx, v.id, ro), nil)
		if fatal = err; !ok {
			return nil, fserr.ErrInvalid
		}
		return c.now.with(name, &next), nil
	})
	if now := c.now[name]; now.ro {
		c.w.shared.add(name, now)
	}
	return fatal
}

// commit commits; what has been done by now must survive every later crash.
func (c *client) commit(ctx context.Context, o op, n *note) error {
	ok, err := c.judge(o, n, nil, c.w.fs.Commit(ctx), nil)
	if ok {
		c.acks = append(c.acks, ack{c.w.rec.Len(), len(c.states) - 1})
	}
	return err
}

// snapshot takes one, which commits.
func (c *client) snapshot(ctx context.Context, o op, n *note) error {
	all := slices.Sorted(maps.Keys(c.now))
	if len(all) == 0 {
		n.idle = true
		return nil
	}
	from, to := all[o.a%uint32(len(all))], volName(c.id, o.b)
	ro := o.c%2 == 0
	n.what = fmt.Sprintf("%s of %s, read-only %v", to, from, ro)
	src := c.now[from]
	made := &vol{ro: ro, nodes: src.nodes}
	if ro {
		made.snapOf, made.copyOf = src.id, src.copyOf
	}
	var want error
	var stages func() []state
	if was := c.now; was[to] != nil {
		want = fserr.ErrExist
	} else {
		stages = func() []state { return []state{was.with(to, made)} } // also when the commit fails behind its super
	}
	var fatal error
	_ = c.step(stages, func() (state, error) {
		id, err := c.w.fs.Snapshot(ctx, from, to, ro)
		ok, err := c.judge(o, n, nil, err, want)
		if fatal = err; !ok {
			return nil, fserr.ErrInvalid
		}
		known := *made
		known.id = id
		return c.now.with(to, &known), nil
	})
	if v := c.now[to]; want == nil && v != nil {
		c.acks = append(c.acks, ack{c.w.rec.Len(), len(c.states) - 1})
		if ro {
			c.w.shared.add(to, v)
		}
	}
	return fatal
}

// readShared compares a read-only subvolume, somebody's, with what it was when it became that.
func (c *client) readShared(ctx context.Context, o op, n *note) error {
	name, s := c.w.shared.pick(o.a)
	n.what = name
	if s == nil {
		n.idle = true
		return nil
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.gone {
		n.idle = true
		return nil
	}
	tree, err := c.w.fs.Subvolume(ctx, s.v.id)
	var got *vol
	if err == nil {
		got, err = loadVol(ctx, tree, true)
	}
	if ok, err := c.judge(o, n, nil, err, nil); !ok {
		return err
	}
	if d := diffVols(s.v, got); d != "" {
		return fmt.Errorf("read-only subvolume has changed: %s", d)
	}
	return nil
}

// walk compares a subvolume as package io/fs shows it.
func (c *client) walk(ctx context.Context, o op, n *note, name string) error {
	v := c.now[name]
	ns, err := c.w.fs.Namespace(ctx, v.id)
	if ok, err := c.judge(op{kind: opRead}, n, nil, err, nil); !ok {
		return err
	}
	view := inode.NewFSView(ctx, ns)
	seen := 0
	err = fs.WalkDir(view, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		seen++
		return c.compareFS(view, v, p, d)
	})
	var diff differs
	if errors.As(err, &diff) {
		return fmt.Errorf("io/fs view of %s: %w", name, err)
	}
	if ok, err := c.judge(o, n, nil, err, nil); !ok {
		return err
	}
	want := 1
	for _, x := range v.nodes {
		want += len(x.entries)
	}
	if seen != want {
		return fmt.Errorf("io/fs view of %s shows %d names, want %d", name, seen, want)
	}
	return nil
}

// differs is a divergence from the model, met among calls that may fail by a fault.
type differs string

func (d differs) Error() string { return string(d) }

// compareFS compares one path.
func (c *client) compareFS(view *inode.FSView, v *vol, p string, d fs.DirEntry) error {
	x := v.nodes[inode.RootDir]
	if p != "." {
		for _, name := range splitPath(p) {
			if x = v.nodes[x.entries[name]]; x == nil {
				return differs(p + " should not be there")
			}
		}
	}
	info, err := d.Info()
	if err != nil {
		return err
	}
	if info.IsDir() != x.isDir() || uint32(info.Mode().Perm()) != x.mode&0o777 {
		return differs(fmt.Sprintf("%s has mode %v, want %#o", p, info.Mode(), x.mode))
	}
	if !x.isReg() {
		return nil
	}
	data, err := view.ReadFile(p)
	if err != nil {
		return err
	}
	if diff := diffData(x.data, data); diff != "" {
		return differs(p + ": " + diff)
	}
	return nil
}

func splitPath(p string) []string {
	if dir, name := path.Split(p); dir != "" {
		return append(splitPath(path.Clean(dir)), name)
	}
	return []string{p}
}

// view reads the commit root of one's own subvolume, while others commit, and compares it with the states that the
// view's generation may show.
func (c *client) view(ctx context.Context, o op, n *note, name string) error {
	id := c.now[name].id
	for range 20 {
		v, err := commitview.Open(ctx, c.w.fs.DB(), id, commitview.Options{Name: "modeltest"})
		if errors.Is(err, fserr.ErrNotFound) { // made since the last commit
			return nil
		}
		if ok, err := c.judge(op{kind: opRead}, n, nil, err, nil); !ok {
			return err
		}
		if v.Policy() != commitview.Epoch {
			v.Close()
			return nil // a read-only one may have been asked under another policy; its content is compared by opShared
		}
		gen := v.Generation()
		got, err := loadVol(ctx, inode.NewReader(v, inode.ReaderOptions{Csum: c.w.cfg.mkfs.Csum, Pool: c.w.fs.Pool()}), false)
		again := v.Generation()
		v.Close()
		if errors.Is(err, fserr.ErrViewExpired) || err == nil && gen != again {
			continue
		}
		if ok, err := c.judge(o, n, nil, err, nil); !ok {
			return err
		}
		return c.compareView(gen, name, id, got)
	}
	return nil
}

// compareView looks for the state that a view showed.
func (c *client) compareView(gen ondisk.Generation, name string, id ondisk.TreeID, got *vol) error {
	lo, hi := c.w.window(gen, c.id)
	var first string
	for k := lo; k <= min(hi, len(c.states)-1); k++ {
		candidates := []state{c.states[k]}
		if k > lo && c.stages[k-1] != nil {
			candidates = append(candidates, c.stages[k-1]()...)
		}
		for _, s := range candidates {
			v := s[name]
			if v == nil || v.id != id {
				continue
			}
			d := diffVols(v, got)
			if d == "" {
				return nil
			}
			if first == "" {
				first = d
			}
		}
	}
	return fmt.Errorf("view of generation %d shows none of the states %d to %d of %s (now %d): %s", gen, lo, hi, name, len(c.states)-1, first)
}
