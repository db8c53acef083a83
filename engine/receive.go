package engine

import (
	"context"
	"errors"
	"fmt"
	"io"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/receive"
)

// ReceiveOptions are those of package receive with a path for the directory in which the subvolumes appear, "" for the
// top; Tree and Dir are not used.
type ReceiveOptions struct {
	Path string
	receive.Options
}

// Receive makes subvolumes from the send streams in input; see receive.Receive. What it returns is durable.
func (fs *FS) Receive(ctx context.Context, input io.Reader, o ReceiveOptions) ([]receive.Subvolume, error) {
	ns, err := fs.Namespace(ctx, ondisk.FSTree)
	if err != nil {
		return nil, err
	}
	dir, err := ns.Walk(ctx, o.Path, true)
	if err != nil {
		return nil, err
	}
	item, err := dir.Inode(ctx)
	if err != nil {
		return nil, err
	}
	if dir.IsPlaceholder() || item.Mode()&ondisk.ModeFmt != ondisk.ModeDir {
		return nil, fmt.Errorf("%s: %w", o.Path, fserr.ErrNotDir)
	}
	o.Tree, o.Dir = dir.Tree.ID(), dir.Ino
	return receive.Receive(ctx, receiving{fs}, input, o.Options)
}

// receiving is what package receive needs.
type receiving struct{ *FS }

// Incompat sets incompatible features in the superblock of the running transaction.
func (r receiving) Incompat(ctx context.Context, bits uint64) error {
	h, err := r.db.Start(ctx, 1)
	if err != nil {
		return err
	}
	err = r.db.UpdateSuper(h, func(sb *ondisk.SuperBlock) error {
		sb.SetIncompatFlags(sb.IncompatFlags() | bits)
		return nil
	})
	return errors.Join(err, h.End(ctx))
}
