package crashsim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
)

// verify looks at one image and returns what is wrong with it. The image is changed.
func (h *history) verify(ctx context.Context, c crash) error {
	gen, state, _, err := openReadOnly(ctx, c.img)
	if err != nil {
		return fmt.Errorf("after the crash: %w", err)
	}
	if !slices.Contains(c.legal, gen) {
		return fmt.Errorf("the image is at generation %d, and should be at one of %v", gen, c.legal)
	}
	want, known := h.states[gen]
	if !known {
		return fmt.Errorf("nobody committed generation %d", gen)
	}
	if !bytes.Equal(want, state) {
		return fmt.Errorf("generation %d is not what was committed: %s", gen, diff(want, state))
	}
	if err := examine(ctx, c.img, true, true); err != nil {
		return fmt.Errorf("checker, after the crash: %w", err)
	}
	if err := goOn(ctx, c.img, c.seed); err != nil {
		return fmt.Errorf("going on at generation %d: %w", gen, err)
	}
	after, state, left, err := openReadOnly(ctx, c.img)
	if err != nil {
		return fmt.Errorf("after the next commit: %w", err)
	}
	if after <= gen {
		return fmt.Errorf("the commit after the crash left generation %d, it was %d", after, gen)
	}
	if want, state = withoutMark(want), withoutMark(state); !bytes.Equal(want, state) {
		return fmt.Errorf("the commit after the crash changed what was there: %s", diff(want, state))
	}
	// Whatever was being deleted or received is gone; that its space is free is for the checker to say.
	if len(left) > 0 {
		return fmt.Errorf("after the next commit there is still %v", left)
	}
	// What was there has not moved, and the manifest has just read all of it against its checksums.
	if err := examine(ctx, c.img, false, false); err != nil {
		return fmt.Errorf("checker, after the next commit: %w", err)
	}
	return nil
}

// mark is the file that goOn writes.
const mark = "written-after-the-crash"

// goOn opens an image for writing, writes a file or, when it is full, the label, and commits once.
func goOn(ctx context.Context, img *disk.Mem, seed uint64) (err error) {
	fs, err := engine.OpenDevices(ctx, []disk.Device{keepOpen{img}}, engine.OpenOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fs.Close()) }()
	tree, err := fs.Subvolume(ctx, ondisk.FSTree)
	if err != nil {
		return err
	}
	ino, err := tree.Create(ctx, inode.RootDir, mark, inode.Attr{Mode: 0o644})
	if err == nil {
		_, err = tree.WriteAt(ctx, ino, content(uint32(seed>>3), 150_000), 0)
	}
	if errors.Is(err, fserr.ErrNoSpace) {
		err = fs.SetLabel(ctx, "full")
	}
	if err != nil {
		return err
	}
	return fs.Commit(ctx)
}

// withoutMark leaves out the lines that goOn changes.
func withoutMark(state []byte) []byte {
	var kept []byte
	for line := range bytes.Lines(state) {
		if !bytes.HasPrefix(line, []byte(`{"path":"."`)) && !bytes.HasPrefix(line, []byte(`{"path":"`+mark+`"`)) {
			kept = append(kept, line...)
		}
	}
	return kept
}

// untouched refuses everything that would change a device.
type untouched struct{ disk.Device }

var errTouched = errors.New("a file system opened for reading changes the device")

func (untouched) WriteAt(context.Context, []byte, int64) (int, error) { return 0, errTouched }
func (untouched) Discard(context.Context, int64, int64) error         { return errTouched }
func (untouched) Flush(context.Context) error                         { return errTouched }
func (untouched) Close() error                                        { return nil }

// openReadOnly returns the generation and the state of an image, and what is hidden in it.
func openReadOnly(ctx context.Context, img *disk.Mem) (gen ondisk.Generation, state []byte, secrets []string, err error) {
	fs, err := engine.OpenDevices(ctx, []disk.Device{untouched{img}}, engine.OpenOptions{ReadOnly: true})
	if err != nil {
		return 0, nil, nil, err
	}
	defer func() { err = errors.Join(err, fs.Close()) }()
	sb := fs.Super()
	if state, err = stateOf(ctx, fs); err == nil {
		secrets, err = hidden(ctx, fs)
	}
	return sb.Generation(), state, secrets, err
}

// diff shows the first few lines in which two manifests differ.
func diff(want, got []byte) string {
	var out []string
	a, b := bytes.Split(want, []byte("\n")), bytes.Split(got, []byte("\n"))
	only := func(sign string, lines, other [][]byte) {
		seen := map[string]bool{}
		for _, l := range other {
			seen[string(l)] = true
		}
		for _, l := range lines {
			if !seen[string(l)] && len(out) < 8 {
				out = append(out, sign+string(l))
			}
		}
	}
	only("\n- ", a, b)
	only("\n+ ", b, a)
	return strings.Join(out, "")
}
