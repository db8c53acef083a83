// Command imgtool works on btrfs file systems in image files and block devices, without root and without a mount.
//
// Its words and flags are those of mkfs.btrfs and btrfs, with the image where those take a mount point. Each command has
// a file of its own that turns flags into calls of package engine and the results into text or JSON; nothing about the
// format is decided here. session.go opens and closes images for all of them, errors.go says how a failure is told.
//
// A command that changes an image commits once, at its end (an import more often), so a command that fails, or is
// stopped by SIGINT or SIGTERM, leaves the image at its last commit.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run is the whole program but for the exit.
func run(args []string, in io.Reader, out, errOut io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the first signal asks for a clean stop, the second one kills

	a := newApp(ctx, in, out, errOut)
	root := a.command()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	return a.report(ctx, a.finish(err))
}
