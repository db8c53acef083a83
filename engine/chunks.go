package engine

import (
	"context"
	"errors"
)

// chunkItems is how many tree items the items of a new chunk touch: device extents, block group, free space, device.
const chunkItems = 8

// ForceChunkAlloc makes a chunk of a type (ondisk.BGData, BGMetadata or BGSystem) before it is needed, in the profile of
// that type, as a write to /sys/fs/btrfs/UUID/allocation/TYPE/force_chunk_alloc makes the kernel do. It is durable after
// the next Commit; a chunk that stays empty goes again at some later commit. Errors: ENOSPC, fserr.ErrInvalid, EROFS.
func (fs *FS) ForceChunkAlloc(ctx context.Context, typ uint64) error {
	h, err := fs.db.Start(ctx, chunkItems)
	if err != nil {
		return err
	}
	err = fs.db.Extents().ForceChunk(typ)
	return errors.Join(err, h.End(ctx))
}
