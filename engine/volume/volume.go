package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"imgtool/disk"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
)

// Options of Open. The zero value is right for most.
type Options struct {
	Tracer trace.Tracer
	// Copy chooses the superblock copy: 0 the newest valid one; 1 or 2 only the mirror at 64 MiB or 256 GiB, as
	// btrfs-progs' -s does for a damaged primary.
	Copy int
	// CheckSuper judges a superblock copy whose checksum is right, beyond what Open itself needs of it; nil: nothing
	// more. A copy that fails is as good as absent.
	CheckSuper func(*ondisk.SuperBlock) error
	// Pool gives the staging buffers of merged writes and superblocks; nil: the Go heap.
	Pool *disk.Pool
	// QueueDepth bounds the requests that one call has under way; 0: 8.
	QueueDepth int
}

// Volume is the devices of one file system with its chunk map.
type Volume struct {
	tracer     trace.Tracer
	sectorSize uint32
	depth      int
	pool       *disk.Pool // may be nil
	devices    []*device  // by devid
	byID       map[uint64]*device
	chunks     atomic.Pointer[[]*mapped]

	mu         sync.Mutex         // protects super, the devices' items, and changes of chunks
	super      *ondisk.SuperBlock // replaced as a whole, never changed
	writeSuper sync.Mutex         // held while superblocks are written, so that two commits' copies never mix
}

// device is one given device.
type device struct {
	dev  disk.Device
	id   uint64
	uuid ondisk.UUID
	item ondisk.DevItem // what its superblocks carry; protected by Volume.mu
}

// DeviceInfo is one device that was given.
type DeviceInfo struct {
	DevID      uint64
	UUID       ondisk.UUID
	TotalBytes uint64 // of the file system on it; the device may be larger
	Dev        disk.Device
}

// Range is a range of logical addresses.
type Range struct {
	Start  ondisk.Logical
	Length uint64
}

// defaultDepth serves what was measured: four sequential writes in flight saturate a device, small reads want more.
const defaultDepth = 8

// Create makes the volume of a new file system, for mkfs: nothing is read or written, and there are no chunks but those
// in the superblock's sys_chunk_array, which may be empty. sb describes the first device in its dev_item; further
// devices need SetDevItem before they are used.
func Create(_ context.Context, devs []disk.Device, sb *ondisk.SuperBlock) (*Volume, error) {
	if len(devs) != 1 {
		return nil, fmt.Errorf("a new file system on %d devices: %w; give one", len(devs), fserr.ErrUnsupported)
	}
	if err := checkSizes(sb); err != nil {
		return nil, err
	}
	it := *sb.DevItem()
	v := newVolume(sb, []*device{{dev: devs[0], id: it.DevID(), uuid: it.UUID(), item: it}}, Options{})
	if err := v.addSysChunks(sb); err != nil {
		return nil, err
	}
	return v, nil
}

func newVolume(sb *ondisk.SuperBlock, devices []*device, o Options) *Volume {
	own := *sb
	v := &Volume{
		tracer: o.Tracer, sectorSize: sb.SectorSize(), depth: o.QueueDepth, pool: o.Pool,
		devices: devices, byID: make(map[uint64]*device), super: &own,
	}
	if v.depth <= 0 {
		v.depth = defaultDepth
	}
	slices.SortFunc(v.devices, func(a, b *device) int {
		if a.id < b.id {
			return -1
		}
		return 1
	})
	for _, d := range devices {
		v.byID[d.id] = d
	}
	v.chunks.Store(new([]*mapped))
	return v
}

// SetTracer sets who is told of flushes. It is called before the volume is shared.
func (v *Volume) SetTracer(t trace.Tracer) { v.tracer = t }

// Super returns a copy of the superblock as it was read or last written.
func (v *Volume) Super() ondisk.SuperBlock {
	v.mu.Lock()
	defer v.mu.Unlock()
	return *v.super
}

// Devices returns the devices that were given, by devid.
func (v *Volume) Devices() []DeviceInfo {
	v.mu.Lock()
	defer v.mu.Unlock()
	list := make([]DeviceInfo, len(v.devices))
	for i, d := range v.devices {
		list[i] = DeviceInfo{d.id, d.uuid, d.item.TotalBytes(), d.dev}
	}
	return list
}

// Missing returns the devids, ascending, that chunks refer to and that were not given. Before the chunk tree has been
// read only the SYSTEM chunks count.
func (v *Volume) Missing() []uint64 {
	var ids []uint64
	for _, c := range v.chunkMap() {
		for i, d := range c.devs {
			if d == nil && !slices.Contains(ids, c.Stripes[i].DevID) {
				ids = append(ids, c.Stripes[i].DevID)
			}
		}
	}
	slices.Sort(ids)
	return ids
}

// ErrMissing is matched by the errors of reading and writing what lies on a device that was not given.
var ErrMissing = errors.New("device is missing")

// missingError says which device a range needs.
type missingError StripeInfo

func (m *missingError) Error() string {
	return fmt.Sprintf("device %d (uuid %s) is missing: name it with --device", m.DevID, m.UUID)
}

func (m *missingError) Is(target error) bool { return target == ErrMissing }

func (c *mapped) missingError(stripe int) error { return (*missingError)(&c.Stripes[stripe]) }

// unmapped is the error of an address without a chunk.
func unmapped(l ondisk.Logical, n int) error {
	return fserr.Corruptf("chunk", uint64(ondisk.ChunkTree), 0, "no chunk covers %d bytes at %d", n, uint64(l))
}

// Flush makes everything written so far durable, on all devices at once. A DeviceFlushed step follows for each.
func (v *Volume) Flush(ctx context.Context) error {
	reqs := make([]disk.Request, len(v.devices))
	for i, d := range v.devices {
		reqs[i] = disk.Request{Dev: d.dev, Op: disk.OpFlush}
	}
	if err := disk.Do(ctx, len(reqs), reqs); err != nil {
		return err
	}
	if v.tracer != nil {
		for _, d := range v.devices {
			v.tracer.Trace(trace.Event{Kind: trace.DeviceFlushed, Note: d.dev.Name()})
		}
	}
	return nil
}
