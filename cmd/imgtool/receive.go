package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"imgtool/engine"
	"imgtool/engine/receive"
	"imgtool/engine/sendstream"
)

func (a *app) receiveCmd() *cobra.Command {
	var file string
	var dump, progress bool
	var o receive.Options
	cmd := &cobra.Command{
		Use: "receive [-f FILE] [-e] [-E N] IMAGE [PATH]", Short: "make subvolumes from send streams",
		Args: func(cmd *cobra.Command, list []string) error {
			if dump {
				return args(0, 2)(cmd, list)
			}
			return args(1, 2)(cmd, list)
		},
		Long: `Receive the streams that btrfs send writes, full or incremental, from standard input or FILE, and
make their subvolumes in the directory PATH of the image (the top if there is none). They are
read-only and can be the parents of later streams. A stream that breaks off or is damaged
leaves nothing behind. With -E commands that fail are passed over: the subvolumes are finished
without what those were to do, and the exit status is 1. --dump prints the commands of the first
stream, as btrfs receive --dump does, and needs no image.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.MaxErrors < 0 {
				return usagef(cmd, "%d is no number of errors", o.MaxErrors)
			}
			if o.MaxErrors == 0 {
				o.MaxErrors = -1 // the flag's 0 is no limit
			}
			ctx := cmd.Context()
			in, done, err := a.stream(cmd, file)
			if err != nil {
				return err
			}
			defer done()
			if dump {
				return a.dumpStream(&patient{ctx: ctx, in: in})
			}
			path := ""
			if len(args) == 2 {
				path = args[1]
			}
			return a.writeWith(ctx, args[0], a.receiveOptions(), func(s *session) error { return a.receive(ctx, s, in, path, o, progress) })
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVarP(&file, "file", "f", "", "read the stream from `FILE` instead of standard input")
	f.BoolVar(&dump, "dump", false, "only print what the stream holds, a line for each command")
	f.BoolVarP(&o.OneStream, "end", "e", false, "stop behind the first end command, not at the end of the input")
	f.IntVarP(&o.MaxErrors, "max-errors", "E", 1, "stop when `N` commands have failed; 0 is no limit")
	f.BoolVar(&o.ForceDecompress, "force-decompress", false, "unpack compressed data instead of storing it as it is")
	f.BoolVar(&progress, "progress", false, "show how much of the stream has been received")
	f.BoolVar(&o.KeepPartial, "keep-partial", false, "keep what a stream that fails has brought, as a writable subvolume")
	return cmd
}

// receiveOptions bound the memory: a stream goes through the tree once, in order for the most part, so that neither a large
// cache nor a large transaction makes it faster.
func (a *app) receiveOptions() engine.OpenOptions {
	o := a.openOptions()
	o.MaxDirty = 24 << 20
	if o.CacheBytes == 0 {
		o.CacheBytes = 32 << 20
	}
	return o
}

// stream opens the input; done closes it. A terminal is none.
func (a *app) stream(cmd *cobra.Command, file string) (in io.Reader, done func(), err error) {
	if file == "" {
		if isTerminal(a.in) {
			return nil, nil, usagef(cmd, "a send stream cannot come from a terminal: redirect standard input, or use -f FILE")
		}
		return a.in, func() {}, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, err
	}
	return f, func() { _ = f.Close() }, nil // only read
}

// receive receives into the image. A pipe that stands still does not keep a signal from ending the command.
func (a *app) receive(ctx context.Context, s *session, in io.Reader, path string, o receive.Options, progress bool) error {
	o.Stats = new(receive.Stats)
	a.receiveMetrics(s, o.Stats)
	messages := a.errOut
	if progress && !a.quiet {
		var p *receiveProgress
		p, in = a.receiveProgress(in, o.Stats)
		defer p.stop()
		messages = p.messages()
	}
	in = &patient{ctx: ctx, in: in, exact: o.OneStream}
	o.Begun = func(name string, snapshot bool) {
		kind := "subvol"
		if snapshot {
			kind = "snapshot"
		}
		if !a.quiet {
			fmt.Fprintf(messages, "At %s %s\n", kind, name)
		}
	}
	o.Failed = func(err error) { fmt.Fprintf(messages, "imgtool: warning: %v\n", err) }
	subs, err := s.Receive(ctx, in, engine.ReceiveOptions{Path: path, Options: o})
	for _, sub := range subs {
		if sub.Partial {
			a.warn(fmt.Sprintf("%s is incomplete and was kept", sub.Name))
		}
	}
	if n := o.Stats.Errors.Load(); err == nil && n > 0 {
		err = fmt.Errorf("%d commands failed and were passed over: what was received is not what was sent", n)
	}
	return err
}

// dumpStream prints the commands of one stream. What was read before an error is printed.
func (a *app) dumpStream(in io.Reader) error {
	r, d := sendstream.NewReader(bufio.NewReaderSize(in, 256<<10)), sendstream.NewDumper(a.out, time.Local)
	err := r.Begin()
	if err == io.EOF {
		return fmt.Errorf("the stream is empty: %w", sendstream.ErrDamaged)
	}
	for end := false; err == nil && !end; {
		var c *sendstream.Command
		if c, err = r.Next(); err == nil {
			end = c.Cmd == sendstream.CmdEnd
			err = d.Print(c)
		}
	}
	return errors.Join(err, d.Flush())
}
