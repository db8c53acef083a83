package extent

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
)

// device is one device of the file system. Guarded by Manager.chunkMu.
type device struct {
	id      uint64
	uuid    ondisk.UUID
	total   uint64         // bytes that the file system uses of it
	used    uint64         // bytes of device extents, as the device item says
	item    ondisk.DevItem // as read; bytes_used is kept in used
	extents []addrRange    // device extents, and freed ones that may not be re-used yet; ascending, apart
	dirty   bool           // the device item has to be written
}

// hole returns where n bytes fit on the device: the first hole that has them, else the largest there is. The first
// 1 MiB is never used (fs/btrfs/volumes.c, find_free_dev_extent).
func (d *device) hole(n uint64) addrRange {
	best := addrRange{}
	for _, h := range d.holes() {
		if h.n >= n {
			return h
		}
		if h.n > best.n {
			best = h
		}
	}
	return best
}

func (d *device) holes() []addrRange {
	var out []addrRange
	at := uint64(ondisk.ReservedEnd)
	for _, e := range d.extents {
		if e.start > at {
			out = append(out, addrRange{at, e.start - at})
		}
		at = max(at, e.start+e.n)
	}
	if d.total > at {
		out = append(out, addrRange{at, d.total - at})
	}
	return out
}

func (d *device) add(start, n uint64) {
	i, _ := slices.BinarySearchFunc(d.extents, start, func(e addrRange, s uint64) int { return cmp.Compare(e.start, s) })
	d.extents = slices.Insert(d.extents, i, addrRange{start, n})
}

func (d *device) remove(start uint64) {
	d.extents = slices.DeleteFunc(d.extents, func(e addrRange) bool { return e.start == start })
}

// usable is how much logical space chunks with so many copies on this device could still get: both stripes of a DUP
// chunk come from one hole, and a hole smaller than the smallest chunk is of no use.
func (d *device) usable(copies uint64) (n uint64) {
	for _, h := range d.holes() {
		if part := h.n / copies / ondisk.StripeLen * ondisk.StripeLen; part >= minChunk {
			n += part
		}
	}
	return n
}

func (m *Manager) device(id uint64) *device {
	for _, d := range m.devices {
		if d.id == id {
			return d
		}
	}
	return nil
}

// loadDevices reads DEV_ITEMs from the chunk tree and DEV_EXTENTs from the device tree.
func (m *Manager) loadDevices(ctx context.Context) error {
	from := ondisk.Key{ObjectID: ondisk.DevItemsObjectID, Type: ondisk.DevItemKey}
	to := ondisk.Key{ObjectID: ondisk.DevItemsObjectID, Type: ondisk.DevItemKey, Offset: ^uint64(0)}
	err := m.trees.Chunk().Scan(ctx, from, to, func(k ondisk.Key, item []byte) (bool, error) {
		if len(item) < ondisk.DevItemSize {
			return false, fserr.Corruptf("device", uint64(ondisk.ChunkTree), 0, "DEV_ITEM %d of %d bytes", k.Offset, len(item))
		}
		i := ondisk.AsDevItem(item)
		m.devices = append(m.devices, &device{id: k.Offset, uuid: i.UUID(), total: i.TotalBytes(), used: i.BytesUsed(), item: *i})
		return true, nil
	})
	if err != nil {
		return err
	}
	for _, d := range m.devices {
		if err := m.loadDevExtents(ctx, d); err != nil {
			return fmt.Errorf("device %d: %w", d.id, err)
		}
	}
	return nil
}

func (m *Manager) loadDevExtents(ctx context.Context, d *device) error {
	from := ondisk.Key{ObjectID: ondisk.ObjectID(d.id), Type: ondisk.DevExtentKey}
	to := ondisk.Key{ObjectID: ondisk.ObjectID(d.id), Type: ondisk.DevExtentKey, Offset: ^uint64(0)}
	end := uint64(0)
	return m.trees.Dev().Scan(ctx, from, to, func(k ondisk.Key, item []byte) (bool, error) {
		if len(item) < ondisk.DevExtentSize {
			return false, fserr.Corruptf("device extent", uint64(ondisk.DevTree), k.Offset, "item of %d bytes", len(item))
		}
		e := ondisk.AsDevExtent(item)
		if k.Offset < end || e.Length() > d.total || k.Offset > d.total-e.Length() {
			return false, fserr.Corruptf("device extent", uint64(ondisk.DevTree), k.Offset,
				"%d bytes of chunk %d overlap another, or the end of the device at %d", e.Length(), e.ChunkOffset(), d.total)
		}
		end = k.Offset + e.Length()
		d.extents = append(d.extents, addrRange{k.Offset, e.Length()})
		m.chunkUUID = e.ChunkTreeUUID()
		return true, nil
	})
}

// loadSystemChunks keeps the items of SYSTEM chunks for the superblock's array.
func (m *Manager) loadSystemChunks(ctx context.Context) error {
	from := ondisk.Key{ObjectID: ondisk.FirstChunkObjectID, Type: ondisk.ChunkItemKey}
	to := ondisk.Key{ObjectID: ondisk.FirstChunkObjectID, Type: ondisk.ChunkItemKey, Offset: ^uint64(0)}
	return m.trees.Chunk().Scan(ctx, from, to, func(k ondisk.Key, item []byte) (bool, error) {
		if len(item) < ondisk.ChunkSize {
			return false, fserr.Corruptf("chunk", uint64(ondisk.ChunkTree), k.Offset, "item of %d bytes", len(item))
		}
		if ondisk.AsChunk(item).Type()&ondisk.BGSystem != 0 {
			m.sysItems.Set(k.Offset, slices.Clone(item))
		}
		return true, nil
	})
}

// FillSuper writes what this package keeps of the superblock: bytes_used, the SYSTEM chunks, the device item's
// bytes_used. Called when nothing is pending any more; no I/O, no tree locks.
func (m *Manager) FillSuper(sb *ondisk.SuperBlock) {
	used := uint64(0)
	for _, sp := range m.spaces {
		used += uint64(sp.used.Load())
	}
	sb.SetBytesUsed(used)
	if m.trees.FreeSpace() == nil {
		// A v1 cache is void because this stays behind the superblock's generation: the kernel and btrfs check compare
		// the two (fs/btrfs/block-group.c, need_clear). 0 would say that there is none.
		sb.SetCacheGeneration(m.cacheGen)
	}
	m.chunkMu.Lock()
	defer m.chunkMu.Unlock()
	array := sb.SysChunkArray()
	clear(array)
	at := 0
	m.sysItems.Scan(func(start uint64, item []byte) bool {
		ondisk.PutKey(array[at:], chunkKey(start))
		at += ondisk.KeySize + copy(array[at+ondisk.KeySize:], item)
		return true
	})
	sb.SetSysChunkArraySize(uint32(at))
	for _, d := range m.devices {
		if d.id == sb.DevItem().DevID() {
			sb.DevItem().SetBytesUsed(d.used)
			continue
		}
		d.item.SetBytesUsed(d.used)
		if err := m.volume.SetDevItem(&d.item); err != nil {
			trace.Emit(m.tracer, trace.Event{Kind: trace.Warning, Gen: m.gen.Load(), Note: "superblock of another device", Err: err})
		}
	}
}

func chunkKey(start uint64) ondisk.Key {
	return ondisk.Key{ObjectID: ondisk.FirstChunkObjectID, Type: ondisk.ChunkItemKey, Offset: start}
}
