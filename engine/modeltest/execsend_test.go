package modeltest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"imgtool/engine"
	"imgtool/engine/commitview"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/sendstream"
)

// A client sends its own read-only subvolumes, and somebody's, while the others go on. What is sent is compared with the
// model by a naive receiver (stream_test.go); some of it is received again, under another name. The inode numbers of what
// is received are the engine's choice: until they are read back the model's are but a guess (vol.loose).

// frozen lists the client's read-only subvolumes.
func (c *client) frozen() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(c.now)), func(name string) bool { return !c.now[name].ro })
}

// related lists those that v can be sent against: snapshots of the same subvolume that have been read-only ever since.
func (c *client) related(v *vol) []string {
	return slices.DeleteFunc(c.frozen(), func(name string) bool {
		p := c.now[name]
		return p.id == v.id || v.snapOf == 0 || p.snapOf != v.snapOf
	})
}

// thaw notes that a subvolume may change from now on: it is neither a snapshot nor a copy of anything any more.
func thaw(v *vol) { v.snapOf, v.copyOf = 0, 0 }

// trySend does what concerns streams.
func (c *client) trySend(ctx context.Context, o op, n *note) error {
	if o.kind == opReceive {
		return c.receive(ctx, o, n)
	}
	if o.d%4 == 0 {
		return c.sendShared(ctx, o, n)
	}
	all := c.frozen()
	if len(all) == 0 {
		n.idle = true
		return nil
	}
	name := all[o.a%uint32(len(all))]
	_, err := c.send(ctx, o, n, sending{name: name, v: c.now[name], own: true})
	return err
}

// sending is what is sent: a subvolume, the client's own or somebody's, and what the stream calls it.
type sending struct {
	name string
	v    *vol
	own  bool
	as   string
}

// sendShared sends somebody's read-only subvolume, in full.
func (c *client) sendShared(ctx context.Context, o op, n *note) error {
	name, s := c.w.shared.pick(o.a)
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
	_, err := c.send(ctx, o, n, sending{name: name, v: s.v})
	return err
}

// send sends a subvolume, compares the stream with the model, and returns it. Without an error there may still be no
// stream: a fault has been met.
func (c *client) send(ctx context.Context, o op, n *note, s sending) ([]byte, error) {
	so := engine.SendOptions{Path: s.name}
	so.Name, so.Version = s.as, 1+o.b%2
	so.Policy = []commitview.Policy{commitview.Epoch, commitview.CloneRoot}[o.b/2%2]
	var parent *vol
	if s.own && o.b/4%4 != 0 {
		if related := c.related(s.v); len(related) > 0 {
			so.ParentPath = related[o.c%uint32(len(related))]
			parent = c.now[so.ParentPath]
		}
	}
	n.what = fmt.Sprintf("%s against %q, version %d, %v", s.name, so.ParentPath, so.Version, so.Policy)
	out := &sendOutput{}
	if s.own {
		out.begun = func() error { return c.mayNotGo(ctx, s.name, s.v) }
	}
	err := c.w.fs.Send(ctx, out, so)
	if out.wrong != nil {
		return nil, out.wrong
	}
	if ok, err := c.judge(o, n, nil, err, nil); !ok {
		return nil, err
	}
	if left := c.w.fs.Subvols().Sends(s.v.id); len(left) > 0 && c.w.cfg.lockstep {
		return nil, fmt.Errorf("%v are counted and over", left)
	}
	got, err := replay(out.Bytes(), parent)
	if err != nil {
		return nil, fmt.Errorf("the stream: %w", err)
	}
	if d := diffObjects(objects(s.v), got); d != "" {
		return nil, fmt.Errorf("the stream makes of it: %s", d)
	}
	return out.Bytes(), nil
}

// sendOutput takes a stream.
type sendOutput struct {
	bytes.Buffer
	begun func() error // called once, in the middle of the send; may be nil
	wrong error
}

func (s *sendOutput) Write(p []byte) (int, error) {
	if s.begun != nil {
		s.wrong = s.begun()
		s.begun = nil
	}
	if s.wrong != nil {
		return 0, s.wrong
	}
	return s.Buffer.Write(p)
}

// mayNotGo asks for what must be refused while a subvolume is being sent.
func (c *client) mayNotGo(ctx context.Context, name string, v *vol) error {
	for what, err := range map[string]error{
		"deletion": c.w.fs.DeleteSubvolume(ctx, name), "flip": c.w.fs.SetReadonly(ctx, v.id, false),
	} {
		if err == nil || !errors.Is(err, fserr.ErrPerm) && !errors.Is(err, fserr.ErrAborted) && !errors.Is(err, fserr.ErrNoSpace) && !faulty(err) {
			return fmt.Errorf("%s of what is being sent ends with %w, want EPERM", what, err)
		}
	}
	return nil
}

// receive sends one of the client's read-only subvolumes and receives it again under another name.
func (c *client) receive(ctx context.Context, o op, n *note) error {
	all := c.frozen()
	if len(all) == 0 || c.w.cfg.calm { // a receiver works behind its reading: in what order it writes is a matter of time
		n.idle = true
		return nil
	}
	name, to := all[o.a%uint32(len(all))], volName(c.id, o.d)
	for i := range uint32(volNames) {
		if free := volName(c.id, o.d+i); c.now[free] == nil && o.d/8%4 != 0 {
			to = free
			break
		}
	}
	src := c.now[name]
	stream, err := c.send(ctx, op{kind: opSend, b: o.b, c: o.c}, n, sending{name: name, v: src, own: true, as: to})
	if stream == nil {
		return err
	}
	if o.c/16%8 == 0 {
		return c.receiveCut(ctx, o, n, stream, to)
	}
	n.what = fmt.Sprintf("%s of %s", to, n.what)
	want := error(nil)
	made := received(src)
	var stages func() []state
	if was := c.now; was[to] != nil {
		want = fserr.ErrExist
	} else {
		stages = func() []state { return []state{was.with(to, made)} }
	}
	var fatal error
	_ = c.step(stages, func() (state, error) {
		subs, err := c.w.fs.Receive(ctx, bytes.NewReader(stream), engine.ReceiveOptions{})
		if ok, err := c.judge(o, n, nil, err, want); !ok {
			if fatal = err; err == nil && want == nil {
				fatal = c.absent(ctx, to)
			}
			return nil, fserr.ErrInvalid
		}
		known := *made
		known.id = subs[0].ID
		fatal = c.adopt(ctx, &known)
		return c.now.with(to, &known), nil
	})
	if v := c.now[to]; want == nil && v != nil {
		c.acks = append(c.acks, ack{c.w.rec.Len(), len(c.states) - 1})
		if !v.loose {
			c.w.shared.add(to, v)
		}
	}
	return fatal
}

// receiveCut receives a stream that breaks off: nothing is to be seen of it, before and after.
func (c *client) receiveCut(ctx context.Context, o op, n *note, stream []byte, to string) error {
	cut := stream[:1+int(o.c/128)%(len(stream)-1)]
	n.what = fmt.Sprintf("%s of %d bytes of %d of %s", to, len(cut), len(stream), n.what)
	return c.step(nil, func() (state, error) {
		subs, err := c.w.fs.Receive(ctx, bytes.NewReader(cut), engine.ReceiveOptions{})
		switch {
		case err == nil || len(subs) > 0:
			return nil, fmt.Errorf("%+v, %w", subs, errors.Join(err, errors.New("was received")))
		case errors.Is(err, sendstream.ErrDamaged) && c.w.fs.DB().Err() == nil && !faulty(err), errors.Is(err, fserr.ErrExist) && c.now[to] != nil:
			c.counts.refused[o.kind].Add(1)
		default:
			if _, err = c.judge(o, n, nil, err, nil); err != nil {
				return nil, err
			}
		}
		n.outcome = nil // where it broke off depends on how far the receiver was
		if c.now[to] != nil {
			return c.now, nil
		}
		return c.now, c.absent(ctx, to)
	})
}

// absent demands that a receive that has failed has left nothing.
func (c *client) absent(ctx context.Context, to string) error {
	_, err := c.w.fs.SubvolumeAt(ctx, to)
	switch {
	case err == nil:
		return fmt.Errorf("a receive that has failed has left %s", to)
	case errors.Is(err, fserr.ErrNotFound), c.w.plan.reads && faulty(err):
		return nil
	case errors.Is(err, fserr.ErrAborted), c.w.plan.writes && faulty(err):
		return errStop
	}
	return err
}

// received is what the model expects to be received of v. Whose inode has which number it does not know.
func received(v *vol) *vol {
	made := &vol{ro: true, loose: true, copyOf: v.copyOf, nodes: map[ondisk.ObjectID]*node{}}
	if made.copyOf == 0 {
		made.copyOf = v.id
	}
	for ino, n := range v.nodes {
		own := *n
		own.nocow = false // streams do not tell
		if ino == inode.RootDir {
			own.mtime = nil // nor, always, this
		}
		made.nodes[ino] = &own
	}
	return made
}

// adopt compares what was received with what is expected, and takes its inode numbers into the model.
func (c *client) adopt(ctx context.Context, v *vol) error {
	var got *vol
	err := c.read(func() error {
		tree, err := c.w.fs.Subvolume(ctx, v.id)
		if err == nil {
			got, err = loadVol(ctx, tree, true)
		}
		return err
	})
	if err == nil {
		if d := diffVols(v, got); d != "" {
			return fmt.Errorf("received: %s", d)
		}
		v.nodes, v.loose = got.nodes, false
		return nil
	}
	switch {
	case errors.Is(err, fserr.ErrAborted), c.w.fs.DB().Err() != nil, c.w.plan.writes && faulty(err):
		return errStop
	case c.w.plan.reads && faulty(err):
		return errLost
	}
	return fmt.Errorf("received: %w", err)
}
