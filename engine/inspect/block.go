package inspect

import (
	"bufio"
	"fmt"
	"time"

	"imgtool/engine/ondisk"
)

// printer writes the text. Its writer keeps the first error.
type printer struct {
	w      *bufio.Writer
	hide   bool
	loc    *time.Location
	csum   int // bytes of one data checksum, 0 when the algorithm is unknown
	sector uint64
}

// line prints one line. The writer keeps the error, see err.
func (p *printer) line(format string, args ...any) {
	_, _ = fmt.Fprintf(p.w, format, args...)
	_ = p.w.WriteByte('\n')
}

// item prints a line of an item's body.
func (p *printer) item(format string, args ...any) { p.line("\t\t"+format, args...) }

// err returns the first error of the underlying writer.
func (p *printer) err() error {
	_, err := p.w.Write(nil)
	return err
}

// name returns a name as it is printed.
func (p *printer) name(b []byte) string {
	if p.hide {
		return "HIDDEN"
	}
	return escape(b)
}

func (p *printer) timespec(label string, t ondisk.Timespec) {
	p.item("%s %d.%d (%s)", label, uint64(t.Sec), t.Nsec, time.Unix(t.Sec, 0).In(p.loc).Format(time.DateTime))
}

// block prints a tree block: what a header says is printed as it stands.
func (p *printer) block(b ondisk.Block) {
	if b.IsLeaf() {
		p.leaf(b)
	} else {
		p.node(b)
	}
}

// header prints the lines that leaves and nodes have in common.
func (p *printer) header(b ondisk.Block, what, first string) {
	h := b.Header()
	p.line("%s generation %d owner %s", first, uint64(h.Generation()), objectString(ondisk.ObjectID(h.Owner()), 0))
	p.line("%s %d flags 0x%x(%s) backref revision %d", what, uint64(h.Bytenr()), b.Flags(), flagString(b.Flags(), headerBits, ""), b.BackrefRev())
	p.line("fs uuid %s", h.FSID())
	p.line("chunk uuid %s", h.ChunkTreeUUID())
}

func (p *printer) node(b ondisk.Block) {
	h, n := b.Header(), itemCount(b)
	p.header(b, "node", fmt.Sprintf("node %d level %d items %d free space %d", uint64(h.Bytenr()), h.Level(), h.NrItems(), ondisk.MaxPtrs(len(b))-n))
	for i := range n {
		p.line("\t%s block %d gen %d", keyString(b.Key(i)), uint64(b.BlockPtr(i)), uint64(b.PtrGeneration(i)))
	}
}

func (p *printer) leaf(b ondisk.Block) {
	h, n := b.Header(), itemCount(b)
	free := ondisk.LeafDataSize(len(b)) - n*ondisk.ItemSize
	if n > 0 {
		free = b.ItemOffset(n-1) - n*ondisk.ItemSize
	}
	p.header(b, "leaf", fmt.Sprintf("leaf %d items %d free space %d", uint64(h.Bytenr()), h.NrItems(), free))
	for i := range n {
		key, item, ok := leafItem(b, i)
		p.line("\titem %d %s itemoff %d itemsize %d", i, keyString(key), b.ItemOffset(i), b.ItemSize(i))
		if !ok {
			p.line("ERROR: leaf %d slot %d pointer invalid, leaf data limit %d, skip remaining slots", uint64(h.Bytenr()), i, ondisk.LeafDataSize(len(b)))
			return
		}
		p.body(key, item)
	}
}

// minSizes is what the body of each type must hold to be printed field by field.
var minSizes = map[ondisk.ItemType]int{
	ondisk.InodeItemKey: ondisk.InodeItemSize, ondisk.ExtentDataKey: ondisk.FileExtentInlineStart, ondisk.RootItemKey: legacyRootItemSize,
	ondisk.RootRefKey: ondisk.RootRefSize, ondisk.RootBackrefKey: ondisk.RootRefSize, ondisk.DirLogItemKey: 8, ondisk.DirLogIndexKey: 8,
	ondisk.ExtentDataRefKey: ondisk.ExtentDataRefSize, ondisk.SharedDataRefKey: ondisk.SharedDataRefSize, ondisk.ExtentOwnerRefKey: 8,
	ondisk.BlockGroupItemKey: ondisk.BlockGroupItemSize, ondisk.FreeSpaceInfoKey: ondisk.FreeSpaceInfoSize,
	ondisk.ChunkItemKey: ondisk.ChunkSize, ondisk.DevItemKey: ondisk.DevItemSize, ondisk.DevExtentKey: ondisk.DevExtentSize,
	ondisk.QgroupStatusKey: ondisk.QgroupStatusItemSize, ondisk.QgroupInfoKey: 40, ondisk.QgroupLimitKey: 40,
}

// body prints an item's content. Types that btrfs-progs prints nothing of have no case.
func (p *printer) body(key ondisk.Key, item []byte) {
	if n := minSizes[key.Type]; len(item) < n {
		p.item("invalid item size, have %d expect at least %d", len(item), n)
		return
	}
	if !p.fileBody(key, item) && !p.extentBody(key, item) {
		p.systemBody(key, item)
	}
}
