package engine

import (
	"fmt"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// checkBackup refuses a root backup for writing: the trees of later transactions lie in what it takes for free space.
func (o *OpenOptions) checkBackup() error {
	if o.BackupRoot == nil {
		return nil
	}
	if n := *o.BackupRoot; n < 0 || n >= ondisk.NumBackupRoots {
		return fmt.Errorf("root backup %d: %w, there are 0 to %d", n, fserr.ErrInvalid, ondisk.NumBackupRoots-1)
	}
	if !o.readOnly() {
		return fmt.Errorf("a root backup is opened for reading only: %w", fserr.ErrInvalid)
	}
	return nil
}

// useBackup makes sb speak of the state that its root backup n remembers. The log, if there is one, belongs to a later
// state.
func useBackup(sb *ondisk.SuperBlock, n int) error {
	b := *sb.Backup(n)
	if b.TreeRoot() == 0 || b.TreeRootGen() == 0 || b.TreeRootGen() > sb.Generation() || b.ChunkRootGen() > b.TreeRootGen() ||
		b.TreeRootLevel() >= ondisk.MaxLevel || b.ChunkRootLevel() >= ondisk.MaxLevel {
		return fserr.Corruptf("super", 0, uint64(sb.Bytenr()), "root backup %d is empty or damaged: try another one, `imgtool inspect-internal dump-super -f` shows them", n)
	}
	sb.SetRoot(b.TreeRoot())
	sb.SetRootLevel(b.TreeRootLevel())
	sb.SetGeneration(b.TreeRootGen())
	sb.SetChunkRoot(b.ChunkRoot())
	sb.SetChunkRootLevel(b.ChunkRootLevel())
	sb.SetChunkRootGeneration(b.ChunkRootGen())
	sb.SetTotalBytes(b.TotalBytes())
	sb.SetBytesUsed(b.BytesUsed())
	sb.SetLogRoot(0)
	sb.SetLogRootLevel(0)
	return nil
}
