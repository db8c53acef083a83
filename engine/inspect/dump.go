package inspect

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// Reader gives access to a file system. A block that ReadTreeBlock returns belongs to the caller: it stays valid and
// unchanged as long as it is used. The checks that the reader makes decide what can be printed: a block it refuses
// is skipped.
type Reader interface {
	Super() ondisk.SuperBlock
	ReadTreeBlock(ctx context.Context, addr ondisk.Logical) (ondisk.Block, error)
}

// Options says what DumpTree prints. The zero value is the whole file system.
type Options struct {
	Tree      ondisk.TreeID    // only the tree of this id; 0 all
	Blocks    []ondisk.Logical // only these blocks, ascending and once each
	Follow    bool             // with Blocks, also the blocks below
	DFS       bool             // depth first; otherwise each tree is printed level by level, nodes first
	Roots     bool             // only where the roots are
	Backups   bool             // Roots, and the superblock's root backups
	HideNames bool             // no names of files, subvolumes and xattrs
	Banner    string           // first line, such as the program's name and version; "" none
	Location  *time.Location   // of the printed times; nil means local time
}

// DumpTree prints what o asks for, in the order of btrfs-progs: root tree, chunk tree, log root tree, then every tree
// that a ROOT_ITEM names. Blocks that cannot be read are skipped, with a line in their place that says why; the error at the
// end joins the first such findings and counts the others. Errors of w and of ctx end the dump at once.
func DumpTree(ctx context.Context, w io.Writer, r Reader, o Options) error {
	sb := r.Super()
	d := &dumper{r: r, o: &o, sb: &sb, p: newPrinter(w, &sb, &o)}
	if o.Banner != "" {
		d.p.line("%s", o.Banner)
	}
	err := d.run(ctx)
	if e := d.p.w.Flush(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return d.findings()
}

// Block prints one block: its header and items, or its header and key pointers. Its bytes may be anything.
func Block(w io.Writer, b ondisk.Block, sb *ondisk.SuperBlock, o Options) error {
	p := newPrinter(w, sb, &o)
	p.block(b)
	return p.w.Flush()
}

// maxFindings bounds the errors that DumpTree returns one by one.
const maxFindings = 10

type dumper struct {
	r     Reader
	o     *Options
	sb    *ondisk.SuperBlock
	p     *printer
	bad   []error
	count int // findings in all
}

func (d *dumper) warn(err error) {
	if d.count++; len(d.bad) < maxFindings {
		d.bad = append(d.bad, err)
	}
	d.p.line("ERROR: skipped: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
}

func (d *dumper) findings() error {
	if more := d.count - len(d.bad); more > 0 {
		return errors.Join(append(d.bad, fmt.Errorf("and %d more", more))...)
	}
	return errors.Join(d.bad...)
}

func (d *dumper) run(ctx context.Context) error {
	switch {
	case len(d.o.Blocks) > 0:
		return d.blocks(ctx)
	case d.o.Tree == ondisk.RootTree:
		return d.superTree(ctx, "root tree", d.sb.Root(), d.sb.RootLevel())
	case d.o.Tree == ondisk.ChunkTree:
		return d.superTree(ctx, "chunk tree", d.sb.ChunkRoot(), d.sb.ChunkRootLevel())
	case d.o.Tree == ondisk.TreeLogTree:
		if d.sb.LogRoot() == 0 {
			return fmt.Errorf("there is no log tree: %w", fserr.ErrNotFound)
		}
		return d.superTree(ctx, "log root tree", d.sb.LogRoot(), d.sb.LogRootLevel())
	}
	return d.all(ctx)
}

func (d *dumper) blocks(ctx context.Context) error {
	addrs := slices.Clone(d.o.Blocks)
	slices.Sort(addrs)
	for _, a := range slices.Compact(addrs) {
		if uint64(a)%uint64(max(d.sb.SectorSize(), 1)) != 0 {
			return fmt.Errorf("block %d is not a multiple of the sector size %d: %w", uint64(a), d.sb.SectorSize(), fserr.ErrInvalid)
		}
		b, err := d.read(ctx, a)
		if err != nil {
			return fmt.Errorf("block %d: %w", uint64(a), err)
		}
		if !d.o.Follow {
			d.p.block(b)
			continue
		}
		if err := d.tree(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// all prints every tree, or the one tree of o.Tree that the root tree knows.
func (d *dumper) all(ctx context.Context) error {
	if d.o.Tree == 0 {
		if err := d.superTree(ctx, "root tree", d.sb.Root(), d.sb.RootLevel()); err != nil {
			return err
		}
		if err := d.superTree(ctx, "chunk tree", d.sb.ChunkRoot(), d.sb.ChunkRootLevel()); err != nil {
			return err
		}
		if d.sb.LogRoot() != 0 {
			if err := d.superTree(ctx, "log root tree", d.sb.LogRoot(), d.sb.LogRootLevel()); err != nil {
				return err
			}
		}
	}
	n, err := d.rootItems(ctx, d.sb.Root())
	if err != nil {
		return err
	}
	if d.sb.LogRoot() != 0 {
		m, err := d.rootItems(ctx, d.sb.LogRoot())
		if n += m; err != nil {
			return err
		}
	}
	if d.o.Tree != 0 && n == 0 {
		return fmt.Errorf("no tree %s: %w", d.o.Tree, fserr.ErrNotFound)
	}
	if d.o.Backups {
		d.p.rootBackups(d.sb)
	}
	d.p.line("total bytes %d", d.sb.TotalBytes())
	d.p.line("bytes used %d", d.sb.BytesUsed())
	d.p.line("uuid %s", d.sb.FSID())
	return nil
}

// superTree prints a tree that the superblock points to.
func (d *dumper) superTree(ctx context.Context, title string, addr ondisk.Logical, level uint8) error {
	if d.o.Roots || d.o.Backups {
		d.p.line("%s: %d level %d", title, uint64(addr), level)
		return nil
	}
	d.p.line("%s", title)
	b, err := d.read(ctx, addr)
	if err != nil {
		return d.skip(ctx, fmt.Errorf("%s: block %d: %w", title, uint64(addr), err))
	}
	return d.tree(ctx, b)
}

// rootItems prints the tree of each ROOT_ITEM in the tree of roots at addr, and returns how many matched.
func (d *dumper) rootItems(ctx context.Context, addr ondisk.Logical) (n int, err error) {
	b, err := d.read(ctx, addr)
	if err != nil {
		return 0, d.skip(ctx, fmt.Errorf("tree of roots: block %d: %w", uint64(addr), err))
	}
	err = d.atLevel(ctx, b, 0, ondisk.MaxKey, func(leaf ondisk.Block) error {
		for i := range itemCount(leaf) {
			key, item, ok := leafItem(leaf, i)
			if !ok || key.Type != ondisk.RootItemKey || len(item) < legacyRootItemSize {
				continue
			}
			if d.o.Tree != 0 && key.ObjectID != ondisk.ObjectID(d.o.Tree) {
				continue
			}
			n++
			var ri ondisk.RootItem
			copy(ri[:], item)
			if err := d.rootItem(ctx, key, &ri); err != nil {
				return err
			}
		}
		return nil
	})
	return n, err
}

func (d *dumper) rootItem(ctx context.Context, key ondisk.Key, ri *ondisk.RootItem) error {
	title := treeTitle(ondisk.TreeID(key.ObjectID)) + " tree " + keyString(key)
	if d.o.Roots || d.o.Backups {
		d.p.line("%s %d level %d", title, uint64(ri.Bytenr()), ri.Level())
		return nil
	}
	b, err := d.read(ctx, ri.Bytenr())
	if err != nil {
		return d.skip(ctx, fmt.Errorf("tree %s: root block %d: %w", ondisk.TreeID(key.ObjectID), uint64(ri.Bytenr()), err))
	}
	d.p.line("%s ", title) // the space is btrfs-progs'
	return d.tree(ctx, b)
}

// treeTitle is how btrfs-progs announces a tree.
func treeTitle(id ondisk.TreeID) string {
	switch id {
	case ondisk.RootTree:
		return "root"
	case ondisk.ExtentTree:
		return "extent"
	case ondisk.ChunkTree:
		return "chunk"
	case ondisk.DevTree:
		return "device"
	case ondisk.FSTree:
		return "fs"
	case ondisk.CsumTree:
		return "checksum"
	case ondisk.QuotaTree:
		return "quota"
	case ondisk.UUIDTree:
		return "uuid"
	case ondisk.FreeSpaceTree:
		return "free space"
	case ondisk.BlockGroupTree:
		return "block group"
	case ondisk.RaidStripeTree:
		return "raid stripe"
	case ondisk.TreeLogTree:
		return "log"
	case ondisk.TreeLogFixup:
		return "log fixup"
	case ondisk.TreeRelocTree:
		return "reloc"
	case ondisk.DataRelocTree:
		return "data reloc"
	}
	return "file"
}

// ParseTree turns what a user writes for a tree into its id: a number, or a name in any case with or without
// "BTRFS_", "_TREE" and "_OBJECTID", such as "extent", "FS_TREE", "device", "free-space".
func ParseTree(s string) (ondisk.TreeID, error) {
	if n, err := strconv.ParseUint(s, 0, 64); err == nil && n != 0 {
		return ondisk.TreeID(n), nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n < 0 {
		return ondisk.TreeID(n), nil
	}
	name := strings.ToUpper(strings.ReplaceAll(s, "-", "_"))
	name = strings.TrimPrefix(name, "BTRFS_")
	name = strings.TrimSuffix(name, "_OBJECTID")
	for _, n := range treeNames {
		if name == n.name || name == n.name+"_TREE" {
			return n.id, nil
		}
	}
	return 0, fmt.Errorf("unknown tree %q: name a number or one of root, extent, chunk, dev, fs, csum, quota, uuid, free-space, block-group, tree-log, data-reloc", s)
}

var treeNames = []struct {
	name string
	id   ondisk.TreeID
}{
	{"ROOT", ondisk.RootTree}, {"EXTENT", ondisk.ExtentTree}, {"CHUNK", ondisk.ChunkTree}, {"DEVICE", ondisk.DevTree},
	{"DEV", ondisk.DevTree}, {"FS", ondisk.FSTree}, {"CSUM", ondisk.CsumTree}, {"CHECKSUM", ondisk.CsumTree},
	{"QUOTA", ondisk.QuotaTree}, {"UUID", ondisk.UUIDTree}, {"FREE_SPACE", ondisk.FreeSpaceTree},
	{"BLOCK_GROUP", ondisk.BlockGroupTree}, {"RAID_STRIPE", ondisk.RaidStripeTree}, {"TREE_LOG", ondisk.TreeLogTree},
	{"TREE_LOG_FIXUP", ondisk.TreeLogFixup}, {"TREE_RELOC", ondisk.TreeRelocTree}, {"DATA_RELOC", ondisk.DataRelocTree},
}

// newPrinter makes a printer with its own buffer; o.Location is filled in.
func newPrinter(w io.Writer, sb *ondisk.SuperBlock, o *Options) *printer {
	loc := o.Location
	if loc == nil {
		loc = time.Local
	}
	return &printer{w: bufio.NewWriterSize(w, 64<<10), hide: o.HideNames, loc: loc, csum: sb.Checksum().Size(), sector: uint64(sb.SectorSize())}
}
