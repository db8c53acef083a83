package txn

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"imgtool/engine/btree"
	"imgtool/engine/extbuf"
	"imgtool/engine/extent"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
	"imgtool/engine/volume"
	"imgtool/pin"
)

// Options are what a DB stands on.
type Options struct {
	Volume *volume.Volume
	Cache  *extbuf.Cache
	Tracer trace.Tracer
	// Ordered is the file data on its way to the devices: a commit waits for it before its Switch. May be nil.
	Ordered interface{ Drain(context.Context) error }
	// Super is the superblock to go on from; nil takes the volume's.
	Super *ondisk.SuperBlock
	// NoFreeSpaceTree takes the free space from the extent tree even where there is a free-space tree. A commit would not
	// keep that up to date, so nothing may be changed but by ClearFreeSpaceTree, which must come first.
	NoFreeSpaceTree bool
	// ReadOnly refuses every handle.
	ReadOnly bool
	// MaxDirty and MaxDelayed bound what a transaction gathers; zero means the defaults.
	MaxDirty   uint64
	MaxDelayed int
	// MaxHeld bounds the bytes that readers may hold back; zero means a sixteenth of the file system.
	MaxHeld uint64
	Discard bool
	Now     func() time.Time
}

// DB is the trees and transactions of one open file system. It is safe for concurrent use.
type DB struct {
	volume  *volume.Volume
	cache   *extbuf.Cache
	extents *extent.Manager
	pin     *pin.Set
	tracer  trace.Tracer
	ordered interface{ Drain(context.Context) error }
	now     func() time.Time

	readOnly   bool
	maxDirty   uint64
	maxDelayed int
	features   Features

	mu         sync.Mutex // guards the next block, and the fields of transactions
	generation ondisk.Generation
	running    *transaction // RUNNING to COMMIT_DOING
	committing *transaction // UNBLOCKED to SUPER_COMMITTED
	durable    ondisk.Generation
	abortErr   error
	closing    bool

	aborting atomic.Bool
	commits  sync.WaitGroup

	treesMu   sync.Mutex // guards roots, dropped, super; order: treesMu -> commitRootMu -> tree blocks
	roots     map[ondisk.TreeID]*Root
	dropped   []*Root // deleted in this transaction; their buffers go at Switch
	super     ondisk.SuperBlock
	rootTree  *btree.Tree
	chunkTree *btree.Tree
	system    [16]*Root // the well-known trees; written by Open only

	touchMu sync.Mutex // leaf; guards touched and Root.touched, and the items of roots
	touched []*Root

	commitRootMu sync.RWMutex  // written in Switch only; see WithCommitRoots
	switched     atomic.Uint64 // generation of the last Switch

	nextSubvol atomic.Uint64
	stats      commitStats
}

// Features are the format bits that change what the engine writes.
type Features struct {
	NoHoles, ExtendedIref, SkinnyMetadata, FreeSpaceTree, BlockGroupTree bool
}

func featuresOf(sb *ondisk.SuperBlock) Features {
	return Features{
		NoHoles:        sb.HasIncompat(ondisk.IncompatNoHoles),
		ExtendedIref:   sb.HasIncompat(ondisk.IncompatExtendedIref),
		SkinnyMetadata: sb.HasIncompat(ondisk.IncompatSkinnyMetadata),
		FreeSpaceTree:  sb.HasCompatRO(ondisk.CompatROFreeSpaceTree | ondisk.CompatROFreeSpaceTreeValid),
		BlockGroupTree: sb.HasCompatRO(ondisk.CompatROBlockGroupTree),
	}
}

// Open reads the chunk tree into the volume, opens the trees that every transaction needs, and loads the block groups.
// Errors are about disk content (fserr.ErrCorrupt) or I/O.
func Open(ctx context.Context, o Options) (*DB, error) {
	sb := o.Volume.Super()
	if o.Super != nil {
		sb = *o.Super
	}
	db := newDB(o, sb)
	if err := db.load(ctx, &o); err != nil {
		_ = db.Close() // nothing runs yet; the trees give their buffers back
		return nil, err
	}
	return db, nil
}

func (db *DB) load(ctx context.Context, o *Options) error {
	sb := &db.super
	db.chunkTree = btree.New(db.config(ondisk.ChunkTree), sb.ChunkRoot(), sb.ChunkRootLevel(), sb.ChunkRootGeneration())
	if err := db.loadChunks(ctx); err != nil {
		return err
	}
	db.rootTree = btree.New(db.config(ondisk.RootTree), sb.Root(), sb.RootLevel(), sb.Generation())
	if err := db.loadSystemTrees(ctx); err != nil {
		return err
	}
	if err := db.loadNextSubvol(ctx); err != nil {
		return err
	}
	db.pin = pin.New(pin.Options{
		Release: func(es []pin.Extent) { db.extents.Unpinned(es) },
		MaxHeld: db.maxHeld(o.MaxHeld),
		OnAsk: func(t *pin.Ticket) {
			trace.Emit(db.tracer, trace.Event{Kind: trace.ViewRevoked, Gen: t.Generation()})
		},
	})
	db.extents = extent.New(extent.Options{
		Volume: o.Volume, Cache: o.Cache, Pin: db.pin, Tracer: o.Tracer, Trees: sysTrees{db}, Super: sb,
		Discard: o.Discard, Reclaim: db.reclaim, Settle: db.settleRefs, Failed: db.Abort,
	})
	return db.extents.Load(ctx)
}

func newDB(o Options, sb ondisk.SuperBlock) *DB {
	db := &DB{
		volume: o.Volume, cache: o.Cache, tracer: o.Tracer, ordered: o.Ordered, now: o.Now, readOnly: o.ReadOnly,
		maxDirty: o.MaxDirty, maxDelayed: o.MaxDelayed, features: featuresOf(&sb),
		generation: sb.Generation(), durable: sb.Generation(), roots: map[ondisk.TreeID]*Root{}, super: sb,
	}
	if o.NoFreeSpaceTree {
		db.features.FreeSpaceTree = false
	}
	if db.now == nil {
		db.now = time.Now
	}
	if db.maxDirty == 0 {
		db.maxDirty = DefaultMaxDirty
	}
	if db.maxDelayed == 0 {
		db.maxDelayed = DefaultMaxDelayed
	}
	db.switched.Store(uint64(sb.Generation()))
	return db
}

func (db *DB) maxHeld(n uint64) func() uint64 {
	if n == 0 {
		n = max(db.super.TotalBytes()/16, 16<<20)
	}
	return func() uint64 { return n }
}

// loadChunks maps every CHUNK_ITEM. The chunk tree itself lies in SYSTEM chunks, which the super lists.
func (db *DB) loadChunks(ctx context.Context) error {
	from := ondisk.Key{ObjectID: ondisk.FirstChunkObjectID, Type: ondisk.ChunkItemKey}
	to := ondisk.Key{ObjectID: ondisk.FirstChunkObjectID, Type: ondisk.ChunkItemKey, Offset: ^uint64(0)}
	err := db.chunkTree.Scan(ctx, from, to, func(k ondisk.Key, item []byte) (bool, error) {
		return true, db.volume.AddChunk(ondisk.Logical(k.Offset), item)
	})
	if err != nil {
		return fmt.Errorf("chunk tree: %w", err)
	}
	return nil
}

func (db *DB) loadSystemTrees(ctx context.Context) error {
	ids := []ondisk.TreeID{ondisk.ExtentTree, ondisk.DevTree, ondisk.CsumTree, ondisk.FSTree}
	if db.features.FreeSpaceTree {
		ids = append(ids, ondisk.FreeSpaceTree)
	}
	if db.features.BlockGroupTree {
		ids = append(ids, ondisk.BlockGroupTree)
	}
	for _, id := range ids {
		r, err := db.Root(ctx, id)
		if err != nil {
			return fmt.Errorf("open %v: %w", id, err)
		}
		db.system[id] = r
	}
	if _, err := db.Root(ctx, ondisk.UUIDTree); err != nil && !errors.Is(err, fserr.ErrNotFound) {
		return fmt.Errorf("open %v: %w", ondisk.UUIDTree, err)
	}
	return nil
}

func (db *DB) loadNextSubvol(ctx context.Context) error {
	k, _, ok, err := db.rootTree.SeekLE(ctx, ondisk.Key{ObjectID: ondisk.LastFreeObjectID, Type: 255, Offset: ^uint64(0)})
	if err != nil {
		return err
	}
	next := uint64(ondisk.FirstFreeObjectID)
	if ok && k.ObjectID >= ondisk.FirstFreeObjectID {
		next = uint64(k.ObjectID) + 1
	}
	db.nextSubvol.Store(next)
	return nil
}

// reclaim commits so that pinned space comes back, and empty block groups go, even when nothing has changed since the
// last commit. It is called before ENOSPC by callers that hold no handle.
func (db *DB) reclaim(ctx context.Context) error {
	h, err := db.Join(ctx)
	if err != nil {
		return err
	}
	return h.EndAndCommit(ctx)
}

// Close waits for the commits under way. It does not commit: what was not committed is gone, as at a power cut.
func (db *DB) Close() error {
	db.mu.Lock()
	db.closing = true
	db.mu.Unlock()
	db.commits.Wait()
	db.treesMu.Lock()
	defer db.treesMu.Unlock()
	for _, r := range db.roots {
		r.Tree.Close()
	}
	for _, r := range db.dropped {
		r.Tree.Close()
	}
	clear(db.roots)
	db.dropped = nil
	if db.rootTree != nil {
		db.rootTree.Close()
	}
	if db.chunkTree != nil {
		db.chunkTree.Close()
	}
	return nil
}

// Volume returns the volume below.
func (db *DB) Volume() *volume.Volume { return db.volume }

// Cache returns the extent-buffer cache.
func (db *DB) Cache() *extbuf.Cache { return db.cache }

// Extents returns the extent manager.
func (db *DB) Extents() *extent.Manager { return db.extents }

// Pin returns the set of pinned extents and readers' tickets.
func (db *DB) Pin() *pin.Set { return db.pin }

// Tracer returns the tracer, nil if there is none.
func (db *DB) Tracer() trace.Tracer { return db.tracer }

// Features returns the format bits.
func (db *DB) Features() Features { return db.features }

// ReadOnly reports whether the file system was opened read-only.
func (db *DB) ReadOnly() bool { return db.readOnly }

// Now is the clock that times in inodes and root items come from.
func (db *DB) Now() time.Time { return db.now() }

// Super returns a copy of the superblock of the last Switch.
func (db *DB) Super() ondisk.SuperBlock {
	db.treesMu.Lock()
	defer db.treesMu.Unlock()
	return db.super
}

// UpdateSuper changes fields of the superblock that are not derived from trees, such as the label; the transaction's
// commit writes it.
func (db *DB) UpdateSuper(_ *Handle, fn func(*ondisk.SuperBlock) error) error {
	db.treesMu.Lock()
	defer db.treesMu.Unlock()
	return fn(&db.super)
}

// Generation returns the generation of the newest transaction, running or not.
func (db *DB) Generation() ondisk.Generation {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.generation
}

// Durable returns the generation of the last COMPLETED transaction.
func (db *DB) Durable() ondisk.Generation {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.durable
}

// Switched returns the generation whose commit roots readers see now.
func (db *DB) Switched() ondisk.Generation { return ondisk.Generation(db.switched.Load()) }

// WithCommitRoots runs fn with the commit roots held still, and tells it their generation. It is the only place that
// read-locks commitRootMu (the lock neither recurses nor upgrades): fn must not call it again, nor start or end
// handles, nor wait for a goroutine that may.
func (db *DB) WithCommitRoots(fn func(gen ondisk.Generation)) {
	db.commitRootMu.RLock()
	defer db.commitRootMu.RUnlock()
	fn(ondisk.Generation(db.switched.Load()))
}
