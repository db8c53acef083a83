package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"imgtool/disk"
	"imgtool/engine/fserr"
)

// Exit statuses.
const (
	exitDone      = 0
	exitFailed    = 1
	exitUsage     = 2
	exitDamaged   = 3
	exitRepaired  = 4 // of commands that repair
	exitCancelled = 130
)

// usageError is a command line that cannot be understood.
type usageError struct {
	cmd *cobra.Command
	err error
}

func (u *usageError) Error() string { return u.err.Error() }
func (u *usageError) Unwrap() error { return u.err }

func usage(cmd *cobra.Command, err error) error { return &usageError{cmd, err} }

func usagef(cmd *cobra.Command, format string, args ...any) error {
	return usage(cmd, fmt.Errorf(format, args...))
}

// statusError ends the program with a status of its own after the command has printed why.
type statusError struct {
	status int
	err    error
}

func (s *statusError) Error() string { return s.err.Error() }
func (s *statusError) Unwrap() error { return s.err }

// imageError is a failure to open an image, as opposed to a failure inside it.
type imageError struct {
	image string
	err   error
}

func (e *imageError) Error() string { return prefixed(e.image, e.err) }
func (e *imageError) Unwrap() error { return e.err }

// imageFault is a failure inside an open image.
type imageFault struct {
	image string
	err   error
}

func (e *imageFault) Error() string { return prefixed(e.image, e.err) }
func (e *imageFault) Unwrap() error { return e.err }

// prefixed puts the file's name before an error that does not name it.
func prefixed(name string, err error) string {
	s := err.Error()
	for strings.HasPrefix(s, name+": "+name+": ") { // two layers below have named it
		s = s[len(name)+2:]
	}
	if strings.Contains(s, name) {
		return s
	}
	return name + ": " + s
}

// report prints the error on one line, with what to do about it, and returns the exit status.
func (a *app) report(ctx context.Context, err error) int {
	if err == nil {
		return exitDone
	}
	line := strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ")
	var use *usageError
	var status *statusError
	var known *advice
	code, remedy := exitFailed, ""
	switch {
	case errors.As(err, &use):
		code, remedy = exitUsage, fmt.Sprintf("see `%s --help`", use.cmd.CommandPath())
	case errors.As(err, &status):
		code = status.status
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		code, line = exitCancelled, "cancelled; the image is at its last commit"
	case errors.Is(err, fserr.ErrCorrupt), isCut(err):
		code, remedy = exitDamaged, remedyDamaged(err)
	case errors.As(err, &known):
		remedy = known.remedy
	default:
		remedy = remedyFor(err)
	}
	if remedy != "" && !strings.Contains(line, remedy) { // some layers below know it, too
		line += "; " + remedy
	}
	fmt.Fprintf(a.errOut, "imgtool: %s\n", line)
	return code
}

// isCut reports whether an image is shorter than the file system in it.
func isCut(err error) bool {
	var de *disk.Error
	return errors.As(err, &de) && de.Op == disk.OpRead && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF))
}

// isHostFull reports whether it is not the image that is full, but what holds it, or where the output goes.
func isHostFull(err error) bool {
	var device *disk.Error
	var file *fs.PathError
	var call *os.SyscallError
	return errors.As(err, &device) && errors.Is(device.Err, syscall.ENOSPC) ||
		errors.As(err, &file) && errors.Is(file.Err, syscall.ENOSPC) || errors.As(err, &call) && errors.Is(call.Err, syscall.ENOSPC)
}

func remedyDamaged(err error) string {
	var open *imageError
	var c *fserr.Corrupt
	if errors.As(err, &c) && c.What == "device" && c.Root == 0 {
		return "take it from a copy, or make it as long again with `truncate -s` and see what `imgtool check` says"
	}
	if c != nil && c.What == "super" {
		return "is it a btrfs image? if so, `imgtool rescue super-recover` restores superblocks while one copy is good; or take it from a copy"
	}
	if errors.As(err, &open) {
		return "is it a btrfs image? if so, see what `imgtool check` says, or take it from a copy"
	}
	return "see what `imgtool check` says, or take the image from a copy"
}

// remedies are for errors whose text says what is wrong and not what to do, and that ask for the same wherever they
// come from. The first that matches counts.
var remedies = []struct {
	is     error
	remedy string
}{
	{disk.ErrBusy, ""}, // its text says it all
	{fserr.ErrUnsupported, ""},
	{fserr.ErrAborted, ""},
	{fserr.ErrNoSpace, "delete files or snapshots, or enlarge the image"},
	{fserr.ErrReadOnly, "is the subvolume, or the image, read-only? change a writable snapshot of it instead"},
	{fserr.ErrNotDir, "each part of the path but the last must be a directory"},
	{fserr.ErrExist, "remove it first, or choose another name"},
}

func remedyFor(err error) string {
	if isHostFull(err) {
		return "make room on the file system of the host"
	}
	var open *imageError
	if errors.As(err, &open) {
		return open.remedy()
	}
	for _, r := range remedies {
		if errors.Is(err, r.is) {
			return r.remedy
		}
	}
	return ""
}

func (e *imageError) remedy() string {
	var path *fs.PathError
	switch {
	case errors.Is(e.err, disk.ErrBusy):
	case errors.Is(e.err, fs.ErrNotExist) && errors.As(e.err, &path) && path.Path == e.image:
		return "`imgtool mkfs -b SIZE FILE` makes an image"
	case errors.Is(e.err, syscall.EISDIR):
		return "name an image file or a block device"
	case errors.Is(e.err, fs.ErrPermission):
		return "run as a user who may read and write it"
	case errors.Is(e.err, fs.ErrExist):
		return "remove it first, or choose another name"
	}
	return ""
}

// advice is an error with what to do about it, from a place that knows better than the table.
type advice struct {
	err    error
	remedy string
}

func (a *advice) Error() string { return a.err.Error() }
func (a *advice) Unwrap() error { return a.err }

// advise adds a remedy to errors that match; others, and nil, stay as they are.
func advise(err, match error, remedy string) error {
	if err == nil || !errors.Is(err, match) {
		return err
	}
	return &advice{err, remedy}
}
