package engine

import (
	"context"
	"fmt"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/treecheck"
	"imgtool/engine/volume"
)

// refuse is the error of an image that may be read but not written: what stands against it, and what to run.
func refuse(what, remedy string) error {
	return fmt.Errorf("not opened for writing: %s: %s; or open it read-only: %w", what, remedy, fserr.ErrUnsupported)
}

// checkSuper refuses by what the superblock says. Reading needs known incompat features only.
func checkSuper(sb *ondisk.SuperBlock, devices int, readOnly bool) error {
	if f := sb.Flags(); f&(ondisk.SuperFlagMetadump|ondisk.SuperFlagMetadumpV2) != 0 {
		return fmt.Errorf("this is a metadata dump, restore it with `btrfs-image -r` first: %w", fserr.ErrUnsupported)
	}
	if readOnly {
		return treecheck.Features(sb, false)
	}
	// These two are in Features as bits, but have a remedy of their own.
	if sb.HasIncompat(ondisk.IncompatSimpleQuota) {
		return refuse("simple quotas are on", "turn them off with `btrfstune --remove-simple-quota IMAGE`")
	}
	if sb.HasIncompat(ondisk.IncompatMixedGroups) {
		return refuse("data and metadata share block groups (mixed-bg)", "copy the files to a new file system without that feature")
	}
	if err := treecheck.Features(sb, true); err != nil {
		return err
	}
	switch {
	case sb.LogRoot() != 0:
		return refuse("a log tree waits to be replayed",
			"mount it once with the kernel, or drop the last fsyncs with `imgtool rescue zero-log --in-place IMAGE`")
	case sb.Flags()&ondisk.SuperFlagSeeding != 0:
		return refuse("it is a seed device", "clear the flag with `btrfstune -S 0 IMAGE`")
	case sb.NumDevices() > uint64(devices):
		return refuse(fmt.Sprintf("the file system has %d devices and %d were given", sb.NumDevices(), devices),
			"name the others with --device, or mount it degraded with the kernel and run `btrfs device remove missing MOUNTPOINT`")
	}
	return nil
}

// checkSizes refuses devices that have become shorter than the file system on them, also for reading: what is missing
// would come up one by one.
func checkSizes(vol *volume.Volume) error {
	for _, d := range vol.Devices() {
		if size := d.Dev.Size(); uint64(size) < d.TotalBytes {
			return fserr.Corruptf("device", 0, 0, "%s is truncated: the file system has %d bytes on it, and it is %d bytes long", d.Dev.Name(), d.TotalBytes, size)
		}
	}
	return nil
}

// checkWritable refuses by what the trees say.
func checkWritable(ctx context.Context, fs *FS) error {
	for _, check := range []func(context.Context, *FS) error{
		checkProfiles, checkDevices, checkReplace, checkBalance, checkRelocation, checkQuota,
	} {
		if err := check(ctx, fs); err != nil {
			return err
		}
	}
	return nil
}

func checkProfiles(_ context.Context, fs *FS) error {
	for _, c := range fs.volume.Chunks() {
		if t := c.Type; t&ondisk.BGData != 0 && t&(ondisk.BGMetadata|ondisk.BGSystem) != 0 {
			return refuse("data and metadata share block groups (mixed-bg)", "copy the files to a new file system without that feature")
		}
		if p := c.Type & ondisk.BGProfileMask; p != 0 && p != ondisk.BGDup {
			return refuse(fmt.Sprintf("%s has the profile %s, and only single and DUP can be written", ondisk.BGTypeName(c.Type), ondisk.BGProfileName(c.Type)),
				"mount it with the kernel and run `btrfs balance start -f -dconvert=single -mconvert=dup -sconvert=dup MOUNTPOINT`")
		}
	}
	return nil
}

// checkDevices looks for DEV_ITEMs without a device here. The devices of a seed carry its fsid.
func checkDevices(ctx context.Context, fs *FS) error {
	sb := fs.Super()
	here := map[uint64]bool{}
	for _, d := range fs.volume.Devices() {
		here[d.DevID] = true
	}
	from := ondisk.Key{ObjectID: ondisk.DevItemsObjectID, Type: ondisk.DevItemKey}
	to := ondisk.Key{ObjectID: ondisk.DevItemsObjectID, Type: ondisk.DevItemKey, Offset: ^uint64(0)}
	return fs.db.ChunkTree().Scan(ctx, from, to, func(_ ondisk.Key, item []byte) (bool, error) {
		d := ondisk.AsDevItem(item)
		switch {
		case d.FSID() != sb.MetadataFSID():
			return false, refuse(fmt.Sprintf("device %d is a seed", d.DevID()),
				"mount it with the kernel and run `btrfs device remove` for the seed")
		case !here[d.DevID()]:
			return false, refuse(fmt.Sprintf("device %d is missing", d.DevID()), "name it with --device")
		}
		return true, nil
	})
}

// exists reports whether a tree has an item between two keys, and the first one.
func exists(ctx context.Context, fs *FS, id ondisk.TreeID, from, to ondisk.Key) (item []byte, ok bool, err error) {
	t, err := fs.db.Tree(ctx, id)
	if err != nil {
		return nil, false, err
	}
	k, item, ok, err := t.SeekGE(ctx, from)
	if err != nil {
		return nil, false, fmt.Errorf("%v: %w", id, err)
	}
	return item, ok && k.Compare(to) <= 0, nil
}

// Place and values of dev_replace_state in a DEV_REPLACE item (struct btrfs_dev_replace_item).
const (
	replaceStateAt   = 32
	replaceStarted   = 1
	replaceSuspended = 4
)

func checkReplace(ctx context.Context, fs *FS) error {
	key := ondisk.Key{Type: ondisk.DevReplaceKey}
	item, ok, err := exists(ctx, fs, ondisk.DevTree, key, key)
	if err != nil || !ok || len(item) <= replaceStateAt {
		return err
	}
	if s := item[replaceStateAt]; s == replaceStarted || s == replaceSuspended {
		return refuse("a device is being replaced",
			"mount it with the kernel and wait for `btrfs replace status MOUNTPOINT`, or run `btrfs replace cancel MOUNTPOINT`")
	}
	return nil
}

func checkBalance(ctx context.Context, fs *FS) error {
	key := ondisk.Key{ObjectID: ondisk.BalanceObjectID, Type: ondisk.TemporaryItemKey}
	_, ok, err := exists(ctx, fs, ondisk.RootTree, key, key)
	if err == nil && ok {
		err = refuse("a balance is paused",
			"mount it with the kernel and run `btrfs balance resume MOUNTPOINT` or `btrfs balance cancel MOUNTPOINT`")
	}
	return err
}

func checkRelocation(ctx context.Context, fs *FS) error {
	reloc := ondisk.ObjectID(ondisk.TreeRelocTree)
	from := ondisk.Key{ObjectID: reloc, Type: ondisk.RootItemKey}
	to := ondisk.Key{ObjectID: reloc, Type: ondisk.RootItemKey, Offset: ^uint64(0)}
	_, ok, err := exists(ctx, fs, ondisk.RootTree, from, to)
	if err == nil && ok {
		err = refuse("an interrupted relocation left its trees", "mount it once with the kernel, which finishes it")
	}
	return err
}

func checkQuota(ctx context.Context, fs *FS) error {
	key := ondisk.Key{ObjectID: ondisk.ObjectID(ondisk.QuotaTree), Type: ondisk.RootItemKey}
	to := key
	to.Offset = ^uint64(0)
	if _, ok, err := exists(ctx, fs, ondisk.RootTree, key, to); err != nil || !ok {
		return err
	}
	item, ok, err := exists(ctx, fs, ondisk.QuotaTree, qgroupStatusKey, qgroupStatusKey)
	if err != nil || !ok {
		return err
	}
	if ondisk.AsQgroupStatusItem(item).Flags()&ondisk.QgroupStatusSimple != 0 {
		return refuse("simple quotas are on", "mount it with the kernel and run `btrfs quota disable MOUNTPOINT`")
	}
	return nil
}
