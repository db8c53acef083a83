package modeltest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
)

// client is one user of the file system. It alone changes its subvolumes, so that what they hold is determined by what
// it has done, whatever the others do.
type client struct {
	w   *world
	id  int
	ops []op // still to be done
	now state

	// Steps of this session: states[k] is the state after k of them, stages[k] what a crash in the middle of step k may
	// show beside states[k] and states[k+1]. A step is begun when started is counted up and finished when done is; the
	// tracer reads the two.
	states        []state
	stages        []func() []state // nil: none
	started, done atomic.Int64

	open    []handle
	acks    []ack
	history []string // the last operations, for messages
	counts  *counts
}

// handle is an open file. node is the model's inode once it has lost its last name.
type handle struct {
	file *inode.File
	tree *inode.FileTree
	vol  string
	id   ondisk.TreeID
	ino  ondisk.ObjectID
	node *node
}

// ack is a commit that has returned: whatever crash comes behind entry at of the log shows step or more.
type ack struct{ at, step int }

// counts are how often operations did something, were refused, lacked space, and met faults.
type counts struct {
	done, refused, nospace, faults [kinds]atomic.Int64
}

// errStop ends a client's session: the file system has turned read-only.
var errStop = errors.New("the file system has aborted")

// begin makes the client ready for a session.
func (c *client) begin(s state) {
	c.now, c.states, c.stages, c.acks, c.open = s, []state{s}, nil, nil, nil
	c.started.Store(0)
	c.done.Store(0)
}

// step is one change of the file system, in one transaction. do carries it out and returns the state that it leads to.
func (c *client) step(stages func() []state, do func() (state, error)) error {
	c.started.Add(1)
	next, err := do()
	if err == nil {
		c.now = next
	}
	c.states = append(c.states, c.now)
	c.stages = append(c.stages, stages)
	c.done.Add(1)
	return err
}

// run does one operation. errStop ends the session; any other error is a divergence.
func (c *client) run(ctx context.Context, o op) error {
	note := &note{}
	err := c.try(ctx, o, note)
	result := "done"
	switch {
	case note.outcome != nil:
		result = strings.ReplaceAll(note.outcome.Error(), names[len(names)-1], "long...")
	case note.idle:
		result = "nothing to do"
	}
	if c.history = append(c.history, fmt.Sprintf("c%d %v %s: %s", c.id, o, note.what, result)); len(c.history) > 400 {
		c.history = slices.Clone(c.history[200:])
	}
	if err != nil && !errors.Is(err, errStop) {
		return fmt.Errorf("client %d, %v %s: %w", c.id, o, note.what, err)
	}
	return err
}

// note is what is told about an operation.
type note struct {
	what    string
	outcome error
	idle    bool
}

// judge compares an operation's error with the model's. ok says that it has been done.
func (c *client) judge(o op, n *note, v *vol, got, want error) (ok bool, err error) {
	n.outcome = got
	switch {
	case errors.Is(got, fserr.ErrAborted), got != nil && c.w.fs.DB().Err() != nil:
		return false, errStop
	case c.w.plan.writes && faulty(got): // a write behind somebody's back has failed, and the abort is about to follow
		return false, errStop
	case got == nil && want == nil:
		c.counts.done[o.kind].Add(1)
		return true, nil
	case got == nil:
		return false, fmt.Errorf("succeeded, the model says %v", want)
	case errors.Is(got, fserr.ErrNoSpace):
		c.counts.nospace[o.kind].Add(1)
		return false, nil
	case want != nil && errors.Is(got, want), v != nil && v.ro && errors.Is(got, fserr.ErrReadOnly):
		c.counts.refused[o.kind].Add(1)
		return false, nil
	case c.w.plan.reads && faulty(got):
		c.counts.faults[o.kind].Add(1)
		return false, nil
	}
	return false, fmt.Errorf("failed with %v, the model says %v", got, orDone(want))
}

func orDone(err error) any {
	if err == nil {
		return "done"
	}
	return err
}

// spot is a directory of a volume, a name for it, and what has the name.
type spot struct {
	volName string
	v       *vol
	tree    *inode.FileTree
	dir     ondisk.ObjectID
	name    string
	n       *node // nil: nothing
}

// at finds a spot: one of the client's volumes, and a directory up to three levels down.
func (c *client) at(ctx context.Context, a, b uint32, n *note) (spot, error) {
	vols := slices.Sorted(maps.Keys(c.now))
	if len(vols) == 0 {
		return spot{}, nil
	}
	s := spot{volName: vols[a%uint32(len(vols))], dir: inode.RootDir, name: names[b%uint32(len(names))]}
	if c.now[s.volName].ro && a/16%4 != 0 { // mostly one that can be changed, if there is one
		vols = slices.DeleteFunc(vols, func(name string) bool { return c.now[name].ro })
		if len(vols) > 0 {
			s.volName = vols[a%uint32(len(vols))]
		}
	}
	s.v = c.now[s.volName]
	for b /= uint32(len(names)); b%4 != 0; b /= 4 * uint32(len(names)) {
		child := s.v.nodes[s.v.nodes[s.dir].entries[names[b/4%uint32(len(names))]]]
		if child == nil || !child.isDir() {
			break
		}
		s.dir = child.ino
	}
	s.n = s.v.nodes[s.v.nodes[s.dir].entries[s.name]]
	n.what = s.volName + s.v.path(s.dir) + s.name[:min(4, len(s.name))]
	var err error
	s.tree, err = c.w.fs.Subvolume(ctx, s.v.id)
	return s, err
}

// settle moves the spot to a name of the directory that leads to what ok accepts, unless its own does.
func (s *spot) settle(n *note, ok func(*node) bool) bool {
	if s.n != nil && ok(s.n) {
		return true
	}
	entries := s.v.nodes[s.dir].entries
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		if x := s.v.nodes[entries[name]]; ok(x) {
			s.n, s.name = x, name
			n.what = s.volName + s.v.path(s.dir) + s.name[:min(4, len(s.name))]
			return true
		}
	}
	return false
}

// change is an operation on one volume whose outcome the model knows: want, or next. do may learn of the inode that it
// makes.
func (c *client) change(o op, n *note, s spot, want error, next func() *vol, do func() error) error {
	var fatal error
	_ = c.step(nil, func() (state, error) {
		ok, err := c.judge(o, n, s.v, do(), want)
		if fatal = err; !ok {
			return nil, fserr.ErrInvalid
		}
		return c.now.with(s.volName, next()), nil
	})
	return fatal
}
