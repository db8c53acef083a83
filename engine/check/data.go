package check

import (
	"cmp"
	"errors"
	"slices"

	"imgtool/engine/ondisk"
	"imgtool/engine/volume"
)

// dataRun is how many bytes of file data are read by one request.
const dataRun = 1 << 20

// data verifies the checksums of all file data, in all copies.
func (c *checker) data() error {
	if !c.o.DataCsum {
		return nil
	}
	var ids []uint32
	for i := range c.blocks {
		if b := &c.blocks[i]; b.state == good && b.level == 0 && b.tree == ondisk.CsumTree {
			ids = append(ids, uint32(i))
		}
	}
	slices.SortFunc(ids, func(a, b uint32) int { return cmp.Compare(c.blocks[a].first.Offset, c.blocks[b].first.Offset) })
	var total uint64
	for _, s := range c.csums {
		total += (s.end - s.start) * uint64(max(1, c.vol.Copies(ondisk.Logical(s.start))))
	}
	c.progress.begin("data", 0, total)
	// One leaf at a time, its data by all workers.
	defer c.progress.end()
	return c.readRuns([]*worker{{c: c}}, ids, false, func(_ *worker, _ uint32, b ondisk.Block) {
		pieces := c.pieces(b)
		_ = c.eachChunk(len(pieces), 1, func(i, _ int) { // a cancellation ends readRuns, too
			buf := c.pool.Get(dataRun)
			defer c.pool.Put(buf)
			n := len(pieces[i].sums) / c.sb.Checksum().Size() * int(c.sector)
			c.verifyRun(pieces[i].start, pieces[i].sums, buf[:n])
		})
	})
}

// piece is a stretch of data that is read at once, with its checksums.
type piece struct {
	start uint64
	sums  []byte
}

// pieces cuts what a leaf has checksums for.
func (c *checker) pieces(b ondisk.Block) []piece {
	var list []piece
	size, per := c.sb.Checksum().Size(), dataRun/int(c.sector)
	for i := range b.NrItems() {
		k := b.Key(i)
		if k.Type != ondisk.ExtentCsumKey {
			continue
		}
		for start, sums := k.Offset, b.Item(i); len(sums) > 0; {
			n := min(len(sums)/size, per)
			list = append(list, piece{start, sums[:n*size]})
			sums, start = sums[n*size:], start+uint64(n)*c.sector
		}
	}
	return list
}

// verifyRun compares one stretch of data, in each copy but those on devices that were not given.
func (c *checker) verifyRun(start uint64, sums, buf []byte) {
	copies := c.vol.Copies(ondisk.Logical(start))
	if i := c.extentUnder(start); i < 0 || copies == 0 {
		return // CsumNoExtent has been found
	}
	n := len(buf) / int(c.sector)
	bad := make([]int, n) // copies that are bad
	var text []error
	var missing error
	there := copies
	for i := range copies {
		err := c.vol.ReadCopy(c.ctx, ondisk.Logical(start), buf, i)
		if c.ctx.Err() != nil {
			return
		}
		if errors.Is(err, volume.ErrMissing) {
			missing = err
			there--
			c.progress.add(uint64(len(buf)))
			continue
		}
		if err != nil {
			text = append(text, err)
		}
		for j := range n {
			if err != nil || !c.dataOK(sums, buf, j) {
				bad[j]++
			}
		}
		c.dataBytes.Add(uint64(len(buf)))
		c.progress.add(uint64(len(buf)))
	}
	if there == 0 {
		c.reportData(start, start+uint64(len(buf)), copies, copies, []error{missing})
	}
	for from := 0; from < n; from++ {
		to := from
		for to < n && bad[to] == bad[from] {
			to++
		}
		if bad[from] > 0 {
			c.reportData(start+uint64(from)*c.sector, start+uint64(to)*c.sector, bad[from], there, text)
		}
		from = to - 1
	}
}

func (c *checker) dataOK(sums, buf []byte, i int) bool {
	var have [ondisk.CsumSize]byte
	size, at := c.sb.Checksum().Size(), i*int(c.sector)
	c.sb.Checksum().Sum(have[:], buf[at:at+int(c.sector)])
	return string(have[:size]) == string(sums[i*size:(i+1)*size])
}

func (c *checker) reportData(start, end uint64, bad, copies int, text []error) {
	at := Finding{ID: DataCsum, Root: ondisk.CsumTree, Extent: ondisk.Logical(start)}
	if bad < copies {
		at.ID = DataCopy
	}
	if len(text) > 0 {
		if bad == copies {
			at.ID = DataUnreadable
		}
		c.found(at, "[%d, %d) in %d of %d copies: %v", start, end, bad, copies, text[0])
		return
	}
	c.found(at, "the checksum of [%d, %d) is wrong in %d of %d copies", start, end, bad, copies)
}
