package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"imgtool/disk"
	"imgtool/engine/extbuf"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/ordered"
	"imgtool/engine/subvol"
	"imgtool/engine/trace"
	"imgtool/engine/treecheck"
	"imgtool/engine/txn"
	"imgtool/engine/volume"
)

// OpenOptions say how to open a file system. The zero value opens for writing.
type OpenOptions struct {
	// Devices are the paths of the other members of a file system of several devices.
	Devices []string
	// ReadOnly opens for reading; others may read too. ForceReadonly also when the image is in use elsewhere: what is
	// read may then be no state that the file system was ever in.
	ReadOnly, ForceReadonly bool
	Direct                  disk.DirectMode
	// Copy chooses a superblock copy: 1 or 2 for the mirror at 64 MiB or 256 GiB, 0 for the newest valid one.
	Copy int
	// BackupRoot opens, for reading, the state that this root backup of the superblock remembers, from 0 to 3 in the order
	// in which they stand there. What later transactions wrote over is an error where it is read.
	BackupRoot *int
	// CacheBytes bounds the extent-buffer cache, MaxDirty the dirty metadata of one transaction, both in bytes, MaxDelayed
	// its delayed refs; 0 takes the defaults.
	CacheBytes int64
	MaxDirty   uint64
	MaxDelayed int
	// MaxHeld bounds the bytes that readers of commit roots may hold back; 0 takes the default.
	MaxHeld uint64
	// Discard tells the device about freed space once it is free for good.
	Discard bool
	Tracer  trace.Tracer
	Warn    func(string) // told about things worth knowing; nil drops them
	Now     func() time.Time

	forClearing, noFreeSpaceTree bool // see ClearSpaceCache
}

func (o *OpenOptions) readOnly() bool { return o.ReadOnly || o.ForceReadonly }

func (o *OpenOptions) disk() disk.Options {
	return disk.Options{ReadOnly: o.ReadOnly, ForceReadonly: o.ForceReadonly, Direct: o.Direct, Warn: o.Warn}
}

// Open opens the file system in the image or block device at path, together with o.Devices.
//
// Errors of opening the device are disk.Open's. An image that holds no btrfs, or a damaged one, is a *fserr.Corrupt; one
// that is refused matches fserr.ErrUnsupported and says what to do.
func Open(ctx context.Context, path string, o OpenOptions) (*FS, error) {
	var devs []disk.Device
	for _, p := range append([]string{path}, o.Devices...) {
		d, err := disk.Open(p, o.disk())
		if err != nil {
			closeAll(devs)
			return nil, err
		}
		devs = append(devs, d)
	}
	return OpenDevices(ctx, devs, o)
}

// OpenDevices is Open for devices that are open already. The FS owns them: Close closes them, and so does a failure.
func OpenDevices(ctx context.Context, devs []disk.Device, o OpenOptions) (*FS, error) {
	if len(devs) == 0 {
		return nil, fmt.Errorf("no device was given: %w", fserr.ErrInvalid)
	}
	fs, err := open(ctx, devs, o)
	if err != nil {
		closeAll(devs)
		return nil, fmt.Errorf("%s: %w", devs[0].Name(), err)
	}
	return fs, nil
}

func closeAll(devs []disk.Device) {
	for _, d := range devs {
		_ = d.Close() // nothing was written that could be lost
	}
}

func open(ctx context.Context, devs []disk.Device, o OpenOptions) (*FS, error) {
	if err := o.checkBackup(); err != nil {
		return nil, err
	}
	vol, err := volume.Open(ctx, devs, volume.Options{Tracer: o.Tracer, Copy: o.Copy, CheckSuper: treecheck.Super})
	if err != nil {
		return nil, err
	}
	sb := vol.Super()
	if err := checkSuper(&sb, len(devs), o.readOnly()); err != nil {
		return nil, err
	}
	if err := checkSizes(vol); err != nil {
		return nil, err
	}
	fs, err := assemble(ctx, devs, vol, o)
	if err != nil || o.readOnly() {
		return fs, err
	}
	if err = checkWritable(ctx, fs); err == nil {
		err = vol.SettleSupers(ctx)
	}
	if err == nil && !o.forClearing {
		fs.cache.RepairOwed(ctx)
		err = fs.resume(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, fs.release())
	}
	return fs, nil
}

// assemble puts the layers over a volume together.
func assemble(ctx context.Context, devs []disk.Device, vol *volume.Volume, o OpenOptions) (*FS, error) {
	vol.SetTracer(o.Tracer)
	sb := vol.Super()
	if o.BackupRoot != nil {
		if err := useBackup(&sb, *o.BackupRoot); err != nil {
			return nil, err
		}
	}
	chunkUUID, err := chunkTreeUUID(ctx, vol, &sb)
	if err != nil {
		return nil, err
	}
	fs := &FS{name: devs[0].Name(), devs: devs, volume: vol, pool: disk.NewPool(), trees: map[ondisk.TreeID]*openTree{}}
	check := treecheck.FromSuper(&sb)
	if !o.readOnly() {
		check.MaxGeneration = 0 // generations grow from here on
	}
	ours := *check // the rules for what this engine writes are stricter than those for what it reads
	ours.Write, ours.ChunkTreeUUID = true, chunkUUID
	fs.cache = extbuf.NewCache(extbuf.Options{
		IO: vol, NodeSize: int(sb.NodeSize()), Csum: sb.Checksum(), FSID: sb.MetadataFSID(), ChunkTreeUUID: chunkUUID,
		Limit: o.CacheBytes, Tracer: o.Tracer, Pool: fs.pool,
		Check:      func(b ondisk.Block) error { return treecheck.Block(b, check) },
		CheckWrite: func(b ondisk.Block) error { return treecheck.Block(b, &ours) },
		Repair:     fs.mayRepair,
		OweRepairs: !o.readOnly(),
	})
	fs.ordered = ordered.New(ordered.Options{Writer: vol, Pool: fs.pool, Failed: func(err error) { fs.db.Abort(err) }})
	fs.db, err = txn.Open(ctx, txn.Options{
		Volume: vol, Ordered: fs.ordered, Cache: fs.cache, Tracer: o.Tracer, Super: &sb, ReadOnly: o.readOnly(), MaxDirty: o.MaxDirty,
		MaxDelayed: o.MaxDelayed, MaxHeld: o.MaxHeld, Discard: o.Discard, Now: clock(o.Now), NoFreeSpaceTree: o.noFreeSpaceTree,
	})
	if err != nil {
		return nil, errors.Join(err, fs.cache.Close(), fs.pool.Close())
	}
	f := fs.db.Features()
	fs.config = inode.Config{
		Store: newStore(fs), NodeSize: int(sb.NodeSize()), Csum: sb.Checksum(), NoHoles: f.NoHoles,
		ExtendedIref: f.ExtendedIref, Now: fs.db.Now, Pool: fs.pool,
	}
	fs.subvols = subvol.New(fs.db, fs.Subvolume)
	fs.config.RmdirSubvol = fs.rmdirSubvol
	fs.config.MoveSubvol, fs.config.MayMoveSubvol, fs.config.Leads = fs.subvols.Move, fs.subvols.MayMove, fs.Leads
	return fs, nil
}

// release undoes assemble but for the devices.
func (fs *FS) release() error {
	aborted := fs.db.Err() != nil
	err := fs.db.Close()
	fs.ordered.Close()
	return errors.Join(err, fs.closeMemory(aborted))
}

// closeMemory closes what holds buffers. An aborted transaction leaves some behind that nobody will write; only of a sound
// one is every leak a bug.
func (fs *FS) closeMemory(aborted bool) error {
	err := errors.Join(fs.cache.Close(), fs.pool.Close())
	if aborted {
		return nil
	}
	return err
}

// chunkTreeUUID reads what every tree block header repeats. The kernel takes it from the chunk root as well
// (fs/btrfs/disk-io.c, open_ctree).
func chunkTreeUUID(ctx context.Context, vol *volume.Volume, sb *ondisk.SuperBlock) (ondisk.UUID, error) {
	b := make(ondisk.Block, sb.NodeSize())
	var err error
	for c := range max(vol.Copies(sb.ChunkRoot()), 1) {
		if err = vol.ReadCopy(ctx, sb.ChunkRoot(), b, c); err != nil {
			continue
		}
		if sb.Checksum().BlockCsumOK(b) && b.Header().Bytenr() == sb.ChunkRoot() {
			return b.Header().ChunkTreeUUID(), nil
		}
	}
	if err == nil {
		err = fserr.Corruptf("node", uint64(ondisk.ChunkTree), uint64(sb.ChunkRoot()), "no copy of the chunk root is valid")
	}
	return ondisk.UUID{}, fmt.Errorf("chunk root: %w", err)
}

// resume goes on with what a crash or an earlier close interrupted, in the first transaction.
func (fs *FS) resume(ctx context.Context) error {
	if err := fs.markQuotaInconsistent(ctx); err != nil {
		return fmt.Errorf("quota tree: %w", err)
	}
	if err := fs.subvols.Clean(ctx); err != nil {
		return fmt.Errorf("unfinished deletion of subvolumes: %w", err)
	}
	_, err := fs.Subvolume(ctx, ondisk.FSTree)
	return err
}

// markQuotaInconsistent tells the kernel to count again: this engine changes what quota groups account and does not
// account itself. The kernel sets the same flag when it cannot.
func (fs *FS) markQuotaInconsistent(ctx context.Context) error {
	tree, err := fs.db.Tree(ctx, ondisk.QuotaTree)
	if errors.Is(err, fserr.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	done := false
	err = tree.View(ctx, qgroupStatusKey, func(item []byte) error {
		done = ondisk.AsQgroupStatusItem(item).Flags()&ondisk.QgroupStatusInconsistent != 0
		return nil
	})
	if errors.Is(err, fserr.ErrNotFound) || err == nil && done {
		return nil
	}
	if err != nil {
		return err
	}
	h, err := fs.db.Start(ctx, 1)
	if err != nil {
		return err
	}
	err = tree.Update(ctx, h, qgroupStatusKey, func(item []byte) error {
		s := ondisk.AsQgroupStatusItem(item)
		s.SetFlags(s.Flags() | ondisk.QgroupStatusInconsistent)
		return nil
	})
	return errors.Join(err, h.End(context.WithoutCancel(ctx)))
}

var qgroupStatusKey = ondisk.Key{Type: ondisk.QgroupStatusKey}
