// Peers measures the engine side by side with btrfs-progs and the kernel; peers.sh runs it.
//
// Every comparison is made in rounds, both sides in each round, in alternating order, each on an image of its own that
// was made for the run; only check and send, which change nothing, have one image for both. What is timed ends durable on
// both sides: fsync or syncfs there, a commit here. Where a side is a command its start is included. The result is the ratio of the times, theirs to ours, so above 1 we are faster.
//
// The kernel's side is btrfs on a loop device whose image lies in the same directory as ours; it needs root.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
)

// config is the sizes of what is compared.
type config struct {
	imgtool   string // binary
	dir       string // where images are made
	source    string // tree for --rootdir
	rounds    int
	emptySize int64 // bytes of the empty file system
	files     int   // files created and deleted
	snapshots int
	bytes     int64 // written and read sequentially
	loopDIO   string

	checkFiles, checkSnapshots int // in the image that is checked
	sendFiles                  int // in the image that is sent; 0 for the source directory
}

// comparison is one line of the report. Each side prepares untimed and returns what it timed.
type comparison struct {
	name     string
	unit     string // of work, for the rates
	amount   func(*config) float64
	needRoot bool
	ours     func(context.Context, *bench) (measure, error)
	theirs   func(context.Context, *bench) (measure, error)
}

var comparisons = []comparison{
	{"mkfs-empty", "mkfs", one, false, oursMkfsEmpty, theirsMkfsEmpty},
	{"mkfs-rootdir", "mkfs", one, false, oursMkfsRootdir, theirsMkfsRootdir},
	{"snapshots-clean", "snapshots", snapshotCount, true, oursSnapshotsClean, theirsSnapshotsClean},
	{"snapshots-dirtied", "snapshots", snapshotCount, true, oursSnapshotsDirtied, theirsSnapshotsDirtied},
	{"create-empty", "files", fileCount, true, oursCreateEmpty, theirsCreateEmpty},
	{"delete-empty", "files", fileCount, true, oursDeleteEmpty, theirsDeleteEmpty},
	{"create-4k", "files", fileCount, true, oursCreate4K, theirsCreate4K},
	{"write-seq", "MB", megabytes, true, oursWrite, theirsWrite},
	{"check", "check", one, false, oursCheck, theirsCheck},
	{"read-cold", "MB", megabytes, true, oursRead, theirsRead},
	sendComparison("send-warm", sendKind{}),
	sendComparison("send-cold", sendKind{cold: true}),
	sendComparison("send-no-data", sendKind{noData: true}),
	sendComparison("send-incremental", sendKind{incremental: true}),
	{"receive", "receive", one, true, oursReceive, theirsReceive},
}

func one(*config) float64             { return 1 }
func snapshotCount(c *config) float64 { return float64(c.snapshots) }
func fileCount(c *config) float64     { return float64(c.files) }
func megabytes(c *config) float64     { return float64(c.bytes) / 1e6 }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	var c config
	only := ""
	flag.StringVar(&c.imgtool, "imgtool", "bin/imgtool", "our `command`")
	flag.StringVar(&c.dir, "dir", "", "`directory` of the images; empty: the system's for temporary files")
	flag.StringVar(&c.source, "source", "", "`directory` for mkfs --rootdir")
	flag.IntVar(&c.rounds, "rounds", 5, "rounds of each comparison")
	flag.Int64Var(&c.emptySize, "empty-size", 10<<30, "`bytes` of the empty file system")
	flag.IntVar(&c.files, "files", 20000, "files created and deleted")
	flag.IntVar(&c.snapshots, "snapshots", 200, "snapshots taken")
	flag.Int64Var(&c.bytes, "bytes", 1<<30, "`bytes` written and read sequentially")
	flag.IntVar(&c.checkFiles, "check-files", 200_000, "files in the image that is checked")
	flag.IntVar(&c.checkSnapshots, "check-snapshots", 100, "snapshots in the image that is checked")
	flag.IntVar(&c.sendFiles, "send-files", 0, "made-up files in the image that is sent; 0: the source directory")
	flag.StringVar(&c.loopDIO, "loop-direct-io", "off", "direct I/O of the kernel's loop device, on or off")
	flag.StringVar(&only, "only", "", "comma-separated `names` of comparisons; empty: all")
	flag.Parse()
	if flag.NArg() > 0 || c.rounds < 1 || c.files < 1 || c.snapshots < 1 || c.bytes < 1<<20 || c.checkFiles < 1 || c.checkSnapshots < 0 {
		flag.Usage()
		return errors.New("wrong arguments")
	}
	chosen, err := choose(only)
	if err != nil {
		return err
	}
	if c.dir, err = os.MkdirTemp(c.dir, "imgtool-peers-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(c.dir)) }()
	if c.imgtool, err = filepath.Abs(c.imgtool); err != nil {
		return err
	}
	b := &bench{config: c}
	return b.all(ctx, chosen)
}

func choose(only string) (chosen []comparison, err error) {
	if only == "" {
		return comparisons, nil
	}
	for _, name := range strings.Split(only, ",") {
		found := false
		for _, c := range comparisons {
			if c.name == name {
				chosen, found = append(chosen, c), true
			}
		}
		if !found {
			return nil, fmt.Errorf("no comparison is called %q", name)
		}
	}
	return chosen, nil
}
