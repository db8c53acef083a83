package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"imgtool/disk"
	"imgtool/engine/metrics"
)

// app is one run of the program: its streams, the flags that all commands have, and the metrics.
type app struct {
	in     io.Reader
	out    *stdout
	errOut io.Writer

	devices         []string
	direct          disk.DirectMode
	forceReadonly   bool
	backupRoot      int // -1: the current state; only of commands that only read
	cacheSize       size
	quiet           bool
	metricsAddr     string
	metricsTextfile string

	metrics *metrics.Registry // nil unless one of its flags is given
	server  *metrics.Server
}

func newApp(ctx context.Context, in io.Reader, out, errOut io.Writer) *app {
	return &app{in: in, out: newStdout(ctx, out), errOut: errOut, backupRoot: -1}
}

const rootLong = `imgtool works on btrfs file systems in image files and block devices, without root and
without a mount. Commands and flags are those of mkfs.btrfs and btrfs, with the image where
those take a mount point; any command may be shortened as long as it is unambiguous
("imgtool fi df IMAGE").

A PATH is a path within the image, across subvolumes as in a mount of subvolid=5. SIZE is a
number of bytes with an optional suffix K, M, G, T, P or E (base 1024).

Exit status: 0 done, 1 failed, 2 wrong usage, 3 the image is damaged or no btrfs,
4 damage found and repaired, 130 cancelled by a signal. A command that fails leaves the
image at its last commit.`

// command builds the tree of commands.
func (a *app) command() *cobra.Command {
	cobra.EnablePrefixMatching = true
	cobra.EnableCommandSorting = false
	root := group(&cobra.Command{
		Use: "imgtool", Short: "work on btrfs images", Long: rootLong,
		SilenceErrors: true, SilenceUsage: true,
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.startMetrics() },
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	},
		a.mkfsCmd(),
		a.lsCmd(), a.catCmd(), a.statCmd(), a.putCmd(), a.getCmd(), a.mkdirCmd(), a.rmCmd(), a.mvCmd(), a.lnCmd(),
		a.checkCmd(), a.manifestCmd(), a.subvolumeCmd(), a.sendCmd(), a.receiveCmd(), a.filesystemCmd(), a.inspectCmd(), a.scrubCmd(), a.rescueCmd(), a.benchCmd(), a.versionCmd(),
	)
	for _, words := range readingCommands {
		cmd, _, err := root.Find(words)
		if err != nil || cmd.Name() != words[len(words)-1] {
			panic(fmt.Sprintf("there is no command %v", words))
		}
		cmd.Flags().IntVar(&a.backupRoot, "backup-root", -1, "show the state of root backup `N`, 0 to 3 (see dump-super -f)")
	}
	plainUse(root)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.errOut)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(cmd, err) })
	f := root.PersistentFlags()
	f.SortFlags = false
	f.StringArrayVar(&a.devices, "device", nil, "`FILE`, another device of the same file system (repeatable)")
	f.Var(&a.direct, "direct", "transfer past the host's page cache")
	f.BoolVar(&a.forceReadonly, "force-readonly", false, "read even an image that is in use elsewhere")
	f.Var(&a.cacheSize, "cache-size", "bound of the cache of tree blocks")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "print errors only, no progress and no summary")
	f.StringVar(&a.metricsAddr, "metrics-addr", "", "serve Prometheus metrics on `HOST:PORT`/metrics while the command runs")
	f.StringVar(&a.metricsTextfile, "metrics-textfile", "", "write Prometheus metrics to `FILE` at the end")
	return root
}

// plainUse keeps cobra from adding "[flags]" to usage lines that have them.
func plainUse(cmd *cobra.Command) {
	cmd.DisableFlagsInUseLine = true
	for _, c := range cmd.Commands() {
		plainUse(c)
	}
}

// readingCommands are the commands that open the trees and only read them: they can show an older state.
var readingCommands = [][]string{
	{"ls"}, {"cat"}, {"stat"}, {"get"}, {"manifest"}, {"inspect-internal", "dump-tree"},
	{"subvolume", "list"}, {"subvolume", "get-default"}, {"subvolume", "show"},
	{"filesystem", "df"}, {"filesystem", "usage"}, {"filesystem", "show"},
}

// group makes cmd a word that only leads to other commands: alone it prints its help.
func group(cmd *cobra.Command, subs ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(subs...)
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usagef(cmd, "unknown or ambiguous command %q%s", args[0], suggest(cmd, args[0]))
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return cmd
}

// suggest lists the commands that the word may have meant.
func suggest(cmd *cobra.Command, word string) string {
	cmd.SuggestionsMinimumDistance = 2
	text := ""
	for i, s := range cmd.SuggestionsFor(word) {
		if text += ", "; i == 0 {
			text = "; did you mean "
		}
		text += s
	}
	return text
}

// args checks the number of arguments; most is -1 for any.
func args(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, list []string) error {
		switch {
		case len(list) < least:
			return usagef(cmd, "%s: too few arguments", cmd.Name())
		case most >= 0 && len(list) > most:
			return usagef(cmd, "%s: too many arguments, %q is one", cmd.Name(), list[most])
		}
		return nil
	}
}

// isTerminal reports whether a stream is one.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func (a *app) startMetrics() error {
	if a.metricsAddr == "" && a.metricsTextfile == "" {
		return nil
	}
	a.metrics = metrics.New()
	if a.metricsAddr == "" {
		return nil
	}
	var err error
	if a.server, err = a.metrics.Serve(a.metricsAddr); err == nil && !a.quiet {
		fmt.Fprintf(a.errOut, "imgtool: metrics are at http://%s/metrics\n", a.server.Addr()) // the port may have been 0
	}
	return err
}

// finish ends what startMetrics began, with the command's error. Output that is not complete is an error, too.
func (a *app) finish(err error) error {
	if err == nil {
		err = a.out.failed()
	}
	if a.server != nil {
		err = errors.Join(err, a.server.Close())
	}
	if a.metrics != nil && a.metricsTextfile != "" {
		err = errors.Join(err, a.metrics.WriteTextfile(a.metricsTextfile))
	}
	return err
}
