package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"imgtool/engine"
	"imgtool/engine/commitview"
	"imgtool/engine/fserr"
	"imgtool/engine/metrics"
	"imgtool/engine/send"
)

// sending is what the command line of send says.
type sending struct {
	engine.SendOptions
	file     string
	proto    uint32
	oneEnd   bool
	progress bool
	policy   string
}

// sendCache bounds the cache of tree blocks of a send: it goes through the trees once, and comes back to few blocks.
const sendCache = 48 << 20

const sendLong = `Write read-only subvolumes as send streams, as btrfs send does, to standard output or FILE: whole, or
with -p against a PARENT that the receiver has. Any receiver takes them, btrfs receive and
imgtool receive included. Several subvolumes make several streams, one behind the other, or with
-e one with a single end. With -c and without -p the parent is found among the clone sources.

If sending fails, what was written of the stream stays in FILE, as with btrfs send; a receiver
refuses it, for it has no end.`

func (a *app) sendCmd() *cobra.Command {
	var o sending
	cmd := &cobra.Command{
		Use: "send [-e] [-p PARENT] [-c CLONE_SRC]... [-f FILE] IMAGE SUBVOL...", Short: "write subvolumes as send streams",
		Args: args(2, -1), Long: sendLong,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.sendOptions(cmd, &o); err != nil {
				return err
			}
			out, done, err := a.sendOutput(cmd, o.file)
			if err != nil {
				return err
			}
			if a.cacheSize == 0 {
				a.cacheSize = sendCache
			}
			run := a.read
			if o.ForceROSnapshot {
				run = a.write
			}
			err = run(cmd.Context(), args[0], func(s *session) error { return a.send(cmd.Context(), s, out, args[1:], o) })
			return errors.Join(err, done())
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVarP(&o.oneEnd, "one-end", "e", false, "join several subvolumes in one stream with one end")
	f.StringVarP(&o.ParentPath, "parent", "p", "", "send only what differs from `PARENT`")
	f.StringArrayVarP(&o.ClonePaths, "clone-source", "c", nil, "`CLONE_SRC`, a subvolume that the receiver has, too, to clone data from (repeatable)")
	f.StringVarP(&o.file, "file", "f", "", "write to `FILE` instead of standard output; it is overwritten")
	f.BoolVar(&o.NoData, "no-data", false, "leave file data out: such a stream shows what has changed and cannot be received")
	f.Uint32Var(&o.proto, "proto", 1, "version of the protocol, 0 for the newest")
	f.BoolVar(&o.Compressed, "compressed-data", false, "send compressed data as it is stored; implies --proto 2")
	f.StringVar(&o.policy, "policy", commitview.Epoch.String(), "how the trees are read beside commits: epoch, clone-root, or shared with --unsafe")
	f.BoolVar(&o.AllowUnsafe, "unsafe", false, "allow --policy shared, which may send wrong data beside commits")
	f.BoolVar(&o.progress, "progress", false, "show how much is done of the total")
	f.BoolVar(&o.ForceROSnapshot, "force-ro-snapshot", false, "send a writable subvolume through a read-only snapshot, which is deleted afterwards")
	return cmd
}

// sendOptions checks what flags alone can tell.
func (a *app) sendOptions(cmd *cobra.Command, o *sending) error {
	var err error
	if o.Policy, err = commitview.ParsePolicy(o.policy); err != nil {
		return usage(cmd, err)
	}
	if o.Policy == commitview.Shared && !o.AllowUnsafe {
		return usagef(cmd, "--policy shared reads without protection from commits: it needs --unsafe")
	}
	if o.proto == 0 {
		o.proto = send.MaxVersion
	}
	if o.Compressed && !cmd.Flags().Changed("proto") {
		o.proto = 2
	}
	switch {
	case o.proto > send.MaxVersion:
		return usagef(cmd, "protocol version %d is not known, the newest is %d", o.proto, send.MaxVersion)
	case o.Compressed && o.proto < 2:
		return usagef(cmd, "--compressed-data needs --proto 2")
	}
	o.Version = o.proto
	return nil
}

// sendOutput opens where the stream goes; done closes it. A terminal is refused.
func (a *app) sendOutput(cmd *cobra.Command, file string) (out io.Writer, done func() error, err error) {
	out, done = a.out.out, func() error { return nil } // as it is: its segments are not filled anew after an error
	if file != "" {
		f, err := createStream(file)
		if err != nil {
			return nil, nil, err
		}
		out, done = f, f.Close
	}
	if isTerminal(fileOf(out)) {
		return nil, nil, errors.Join(usagef(cmd, "a send stream is not for a terminal: redirect standard output, or use -f FILE"), done())
	}
	signal.Ignore(unix.SIGPIPE) // a reader that goes is an error, and what was made for the send is taken away again
	if f, ok := fileOf(out).(*os.File); ok {
		_, _ = unix.FcntlInt(f.Fd(), unix.F_SETPIPE_SZ, 1<<20) // if it is a pipe, and if that is allowed
	}
	return out, done, nil
}

// streamFile is the FILE of -f. What it held goes when the first byte of the stream comes: not for an image or a
// subvolume that turns out not to be there.
type streamFile struct {
	*os.File
	isNew, begun bool
}

func createStream(path string) (*streamFile, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil || !errors.Is(err, fs.ErrExist) {
		return &streamFile{File: f, isNew: true}, err
	}
	f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600) // also what a link leads to
	return &streamFile{File: f}, err
}

func (s *streamFile) Write(p []byte) (int, error) {
	if !s.begun {
		s.begun = true
		if st, err := s.Stat(); err == nil && st.Mode().IsRegular() {
			if err := s.Truncate(0); err != nil {
				return 0, err
			}
		}
	}
	return s.File.Write(p)
}

// Close also removes a file that was made and got nothing.
func (s *streamFile) Close() error {
	err := s.File.Close()
	if s.isNew && !s.begun {
		err = errors.Join(err, os.Remove(s.Name()))
	}
	return err
}

// fileOf is the file behind an output, if there is one.
func fileOf(out io.Writer) io.Writer {
	if s, ok := out.(*streamFile); ok {
		return s.File
	}
	return out
}

// send sends one subvolume after the other.
func (a *app) send(ctx context.Context, s *session, out io.Writer, paths []string, o sending) error {
	out = &impatient{ctx: ctx, out: out}
	o.Stats = new(send.Stats)
	if a.metrics != nil {
		sb, st := s.Super(), o.Stats
		a.metrics.NewSend(sb.FSID().String(), metrics.SendFigures{Commands: st.Commands.Load, Bytes: st.Bytes.Load,
			Inodes: st.Inodes.Load, Searches: st.Searches.Load, CacheHits: st.CacheHits.Load, Waits: st.Waits.Load})
	}
	first := o.ClonePaths
	for i, path := range paths {
		if !a.quiet {
			fmt.Fprintf(a.errOut, "At subvol %s\n", path)
		}
		one := o.SendOptions
		one.Path, one.ClonePaths = path, slices.Clone(first)
		one.OmitHeader, one.OmitEnd = o.oneEnd && i > 0, o.oneEnd && i < len(paths)-1
		if one.ParentPath == "" && len(o.ClonePaths) > 0 {
			first = append(first, path) // the next may be sent against it
		}
		if err := a.sendOne(ctx, s, out, one, o.progress); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) sendOne(ctx context.Context, s *session, out io.Writer, o engine.SendOptions, progress bool) error {
	var bar *progressBar
	if progress && !a.quiet {
		o.Count = true
		bar = a.sendProgress(o.Path)
		o.Progress = bar.update
		defer bar.stop()
	}
	return advise(s.Send(ctx, out, o), fserr.ErrPerm, "send a read-only snapshot of it, or use --force-ro-snapshot")
}
