package inspect

import (
	"context"
	"fmt"
	"io"
	"os"
	"testing"

	"imgtool/engine/ondisk"
	"imgtool/engine/treecheck"
)

// image is a Reader of image files that knows nothing but the first copy of everything.
type image struct {
	sb     ondisk.SuperBlock
	files  map[uint64]io.ReaderAt // by devid
	check  *treecheck.Context
	chunks []chunkMap
	reads  int
}

type chunkMap struct {
	start uint64
	item  []byte
}

// locate maps an offset within a chunk to a device and an offset there: striped profiles go on on the next stripe
// after every 64 KiB.
func locate(item []byte, off uint64) (dev, physical uint64) {
	c, i := ondisk.AsChunk(item), 0
	if c.Type()&(ondisk.BGRaid0|ondisk.BGRaid10) != 0 {
		copies := 1
		if c.Type()&ondisk.BGRaid10 != 0 {
			copies = int(c.SubStripes())
		}
		data := uint64(int(c.NumStripes()) / copies)
		nr := off / ondisk.StripeLen
		i, off = int(nr%data)*copies, nr/data*ondisk.StripeLen+off%ondisk.StripeLen
	}
	s := ondisk.ChunkStripe(item, i)
	return s.DevID(), uint64(s.Offset()) + off
}

func openImage(t testing.TB, names ...string) *image {
	im := &image{files: map[uint64]io.ReaderAt{}}
	for _, n := range names {
		f, err := os.Open(n)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() }) // read only
		if _, err := f.ReadAt(im.sb[:], int64(ondisk.SuperOffsets[0])); err != nil {
			t.Fatal(err)
		}
		im.files[im.sb.DevItem().DevID()] = f
	}
	im.check = treecheck.FromSuper(&im.sb)
	add := func(start ondisk.Logical, item []byte) error {
		im.chunks = append(im.chunks, chunkMap{uint64(start), item})
		return nil
	}
	if err := treecheck.SysChunkArray(&im.sb, add); err != nil {
		t.Fatal(err)
	}
	d := &dumper{r: im, o: &Options{}, sb: &im.sb, p: newPrinter(io.Discard, &im.sb, &Options{})}
	root, err := d.read(context.Background(), im.sb.ChunkRoot())
	if err != nil {
		t.Fatal(err)
	}
	err = d.atLevel(context.Background(), root, 0, ondisk.MaxKey, func(leaf ondisk.Block) error {
		for i := range leaf.NrItems() {
			if k := leaf.Key(i); k.Type == ondisk.ChunkItemKey {
				if err := add(ondisk.Logical(k.Offset), leaf.Item(i)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil || d.findings() != nil {
		t.Fatal(err, d.findings())
	}
	return im
}

func (im *image) Super() ondisk.SuperBlock { return im.sb }

// ReadTreeBlock checks checksum, address and content, so that a whole dump also shows that treecheck raises no false
// alarm.
func (im *image) ReadTreeBlock(ctx context.Context, addr ondisk.Logical) (ondisk.Block, error) {
	im.reads++
	for _, c := range im.chunks {
		if uint64(addr)-c.start >= ondisk.AsChunk(c.item).Length() {
			continue
		}
		dev, physical := locate(c.item, uint64(addr)-c.start)
		b := make(ondisk.Block, im.sb.NodeSize())
		if _, err := im.files[dev].ReadAt(b, int64(physical)); err != nil {
			return nil, err
		}
		if !im.check.Csum.BlockCsumOK(b) || b.Header().Bytenr() != addr {
			return nil, fmt.Errorf("bad checksum or address at %d", addr)
		}
		return b, treecheck.Block(b, im.check)
	}
	return nil, fmt.Errorf("address %d is not mapped", addr)
}
