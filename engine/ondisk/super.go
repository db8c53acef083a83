package ondisk

import (
	"bytes"
	"fmt"
)

// SuperOffsets are the addresses of the superblock's copies on every device: 64 KiB, 64 MiB, 256 GiB. A copy is
// written only where it fits whole.
var SuperOffsets = [3]Physical{64 << 10, 64 << 20, 256 << 30}

// SysChunkArraySize is the room for SYSTEM chunks in a superblock, NumBackupRoots the number of its root backups.
const (
	SysChunkArrayMax = 2048
	NumBackupRoots   = 4
	LabelSize        = 256
)

// Label returns the file system's label.
func (p *SuperBlock) Label() string {
	l := p.RawLabel()
	if i := bytes.IndexByte(l, 0); i >= 0 {
		l = l[:i]
	}
	return string(l)
}

// SetLabel stores a label of at most LabelSize-1 bytes; a longer one, or one with a NUL or newline, is an error.
func (p *SuperBlock) SetLabel(s string) error {
	if len(s) >= LabelSize {
		return fmt.Errorf("label %.20q... is %d bytes long, at most %d fit", s, len(s), LabelSize-1)
	}
	if bytes.ContainsAny([]byte(s), "\x00\n") {
		return fmt.Errorf("label %q holds a newline or NUL", s)
	}
	l := p.RawLabel()
	clear(l)
	copy(l, s)
	return nil
}

// Backup returns root backup i, 0 <= i < NumBackupRoots.
func (p *SuperBlock) Backup(i int) *RootBackup {
	return AsRootBackup(p.SuperRoots()[i*RootBackupSize:])
}

// Checksum returns the algorithm that this file system uses; it may be invalid.
func (p *SuperBlock) Checksum() CsumType { return CsumType(p.CsumType()) }

// CsumOK reports whether the stored checksum fits; false too for an unknown algorithm.
func (p *SuperBlock) CsumOK() bool {
	return p.Checksum().Valid() && p.Checksum().BlockCsumOK(p[:])
}

// UpdateCsum stores the checksum of the superblock's content.
func (p *SuperBlock) UpdateCsum() { p.Checksum().SetBlockCsum(p[:]) }

// MetadataFSID returns the UUID that tree block headers carry: the metadata UUID where that feature is set.
func (p *SuperBlock) MetadataFSID() UUID {
	if p.IncompatFlags()&IncompatMetadataUUID != 0 {
		return p.MetadataUUID()
	}
	return p.FSID()
}

// HasIncompat and HasCompatRO report whether all the given feature bits are set.
func (p *SuperBlock) HasIncompat(bits uint64) bool { return p.IncompatFlags()&bits == bits }

// HasCompatRO reports whether all the given compat_ro bits are set.
func (p *SuperBlock) HasCompatRO(bits uint64) bool { return p.CompatROFlags()&bits == bits }

// ChunkItemSize returns the size of a CHUNK_ITEM with n stripes.
func ChunkItemSize(n int) int { return ChunkSize + n*StripeSize }

// ChunkStripe returns stripe i of the chunk item that item holds.
func ChunkStripe(item []byte, i int) *Stripe { return AsStripe(item[ChunkSize+i*StripeSize:]) }
