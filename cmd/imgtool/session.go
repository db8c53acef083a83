package main

import (
	"context"
	"errors"
	"fmt"

	"imgtool/engine"
	"imgtool/engine/inode"
	"imgtool/engine/metrics"
	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
)

// warn prints a warning.
func (a *app) warn(msg string) { fmt.Fprintf(a.errOut, "imgtool: warning: %s\n", msg) }

// info prints a line that --quiet suppresses.
func (a *app) info(format string, args ...any) {
	if !a.quiet {
		fmt.Fprintf(a.out, format+"\n", args...)
	}
}

// session is an open image with its place in the metrics.
type session struct {
	*engine.FS
	ns    *inode.Namespace // of the whole file system
	watch *metrics.FS      // nil without metrics
}

// watch returns the tracer of an image that is about to be opened, nil without metrics.
func (a *app) watch() (*metrics.FS, trace.Tracer) {
	if a.metrics == nil {
		return nil, nil
	}
	w := a.metrics.NewFS()
	return w, w
}

// begin connects an image that has just been opened or formatted with its metrics.
func begin(ctx context.Context, fs *engine.FS, watch *metrics.FS) (*session, error) {
	if watch != nil {
		watch.Attach(metrics.FromDB(fs.DB()))
	}
	s := &session{FS: fs, watch: watch}
	var err error
	if s.ns, err = fs.Namespace(ctx, ondisk.FSTree); err != nil {
		return nil, s.end(ctx, err)
	}
	return s, nil
}

// end commits what has been done, unless err says that it failed, and closes the image.
func (s *session) end(ctx context.Context, err error) error {
	if err == nil && !s.ReadOnly() {
		err = s.Commit(ctx)
	}
	if e := s.Close(); err == nil {
		err = e // after a failure, what Close finds is its consequence
	}
	if s.watch != nil {
		s.watch.Freeze() // now, because Close has waited for the last steps of the last commit
	}
	return err
}

func (a *app) openOptions() engine.OpenOptions {
	return engine.OpenOptions{
		Devices: a.devices, ForceReadonly: a.forceReadonly, Direct: a.direct, CacheBytes: int64(a.cacheSize), Warn: a.warn,
	}
}

// read runs fn on an image opened for reading.
func (a *app) read(ctx context.Context, image string, fn func(*session) error) error {
	o := a.openOptions()
	o.ReadOnly = true
	if a.backupRoot != -1 {
		o.BackupRoot = &a.backupRoot
	}
	return a.with(ctx, image, o, fn)
}

// write runs fn on an image opened for writing, and commits when fn succeeds.
func (a *app) write(ctx context.Context, image string, fn func(*session) error) error {
	return a.writeWith(ctx, image, a.openOptions(), fn)
}

// writeWith is write with options of the command's own.
func (a *app) writeWith(ctx context.Context, image string, o engine.OpenOptions, fn func(*session) error) error {
	if a.forceReadonly {
		return errors.New("--force-readonly is for commands that only read: leave it out")
	}
	return a.with(ctx, image, o, fn)
}

func (a *app) with(ctx context.Context, image string, o engine.OpenOptions, fn func(*session) error) error {
	watch, tracer := a.watch()
	o.Tracer = tracer
	fs, err := engine.Open(ctx, image, o)
	if err != nil {
		return &imageError{image, err}
	}
	s, err := begin(ctx, fs, watch)
	if err == nil {
		err = s.end(ctx, fn(s))
	}
	if err != nil {
		return &imageFault{image, err}
	}
	return nil
}
