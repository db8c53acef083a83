package rescue

import (
	"context"
	"fmt"

	"imgtool/engine/fserr"
	"imgtool/engine/scrub"
	"imgtool/engine/volume"
)

// SuperRecover writes over superblock copies that are damaged, of another file system or older than the newest good one,
// which volume.Open has chosen. It returns the number of bad copies and how many of them are good now; found, which may
// be nil, is told of each. A device that has no current copy at all was absent for a while, or belongs elsewhere: then
// nothing is written.
func SuperRecover(ctx context.Context, vol *volume.Volume, found func(scrub.Finding)) (bad, recovered uint64, err error) {
	if err := complete(vol); err != nil {
		return 0, 0, err
	}
	r, err := scrub.Supers(ctx, vol, scrub.Options{Repair: true, Found: found})
	bad, recovered = r.Errors()
	return bad, recovered, err
}

// ZeroLog drops the log tree, and with it what was made durable by fsync(2) alone since the last commit. It reports
// whether there was one. When it returns nil, all superblock copies are durable.
//
// The blocks of a log are in no extent tree and its space was never taken from the free space on disk, so nothing else
// has to change.
func ZeroLog(ctx context.Context, vol *volume.Volume) (bool, error) {
	sb := vol.Super()
	if sb.LogRoot() == 0 {
		return false, nil
	}
	if err := complete(vol); err != nil {
		return false, err
	}
	sb.SetLogRoot(0)
	sb.SetLogRootLevel(0)
	if err := vol.WriteSuper(ctx, &sb); err != nil {
		return false, err
	}
	return true, vol.Flush(ctx)
}

// complete makes sure that all devices are there: one whose superblock were left behind would be older than the others.
func complete(vol *volume.Volume) error {
	sb := vol.Super()
	if n := len(vol.Devices()); sb.NumDevices() != uint64(n) {
		return fmt.Errorf("the file system has %d devices and %d were given, name the others with --device: %w", sb.NumDevices(), n, fserr.ErrUnsupported)
	}
	return nil
}
