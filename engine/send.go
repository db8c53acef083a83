package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/send"
	"imgtool/engine/subvol"
)

// SendOptions are those of package send with paths for the subvolumes; Subvol, Parent and CloneSources of the embedded
// ones are not used.
type SendOptions struct {
	Path string
	// ParentPath is what the receiver has already, "" for a full stream. If it is empty and there are clone sources, one
	// of them becomes the parent, as with btrfs send: the one that the subvolume is a snapshot of, or else the snapshot
	// of the same subvolume that is nearest in age.
	ParentPath string
	ClonePaths []string
	// ForceROSnapshot sends a read-only snapshot that is taken for it and deleted afterwards, if the subvolume is
	// writable.
	ForceROSnapshot bool
	send.Options
}

// Send writes a subvolume as a send stream to w; see send.Send. It may run beside anything else, other sends included.
func (fs *FS) Send(ctx context.Context, w io.Writer, o SendOptions) error {
	id, err := fs.SubvolumeAt(ctx, o.Path)
	if err != nil {
		return err
	}
	so := o.Options
	so.Subvol, so.Parent, so.CloneSources = id, 0, nil
	for _, p := range o.ClonePaths {
		src, err := fs.SubvolumeAt(ctx, p)
		if err != nil {
			return err
		}
		so.CloneSources = append(so.CloneSources, src)
	}
	switch {
	case o.ParentPath != "":
		if so.Parent, err = fs.SubvolumeAt(ctx, o.ParentPath); err != nil {
			return err
		}
		so.CloneSources = append(so.CloneSources, so.Parent)
	case len(so.CloneSources) > 0:
		if so.Parent, err = fs.goodParent(ctx, id, so.CloneSources); err != nil {
			return fmt.Errorf("%s: %w", o.Path, err)
		}
	}
	if o.ForceROSnapshot {
		done, err := fs.sendSnapshot(ctx, &so)
		if err != nil {
			return fmt.Errorf("%s: %w", o.Path, err)
		}
		return errors.Join(send.Send(ctx, fs, w, so), done())
	}
	return send.Send(ctx, fs, w, so)
}

// sendSnapshot makes a hidden read-only snapshot of a writable subvolume and sends that in its place, under its name. done
// drops it; a process that is killed first leaves it to the next opening for writing.
func (fs *FS) sendSnapshot(ctx context.Context, o *send.Options) (done func() error, err error) {
	root, err := fs.db.Root(ctx, o.Subvol)
	if err != nil {
		return nil, err
	}
	if it := root.Snapshot(); it.Flags()&ondisk.RootSubvolReadonly != 0 {
		return func() error { return nil }, nil
	}
	if o.Name == "" {
		if o.Name, err = fs.subvols.NameOf(ctx, o.Subvol); err != nil {
			return nil, err
		}
	}
	snap, err := fs.subvols.SnapshotHidden(ctx, o.Subvol)
	if err != nil {
		return nil, fmt.Errorf("snapshot for sending: %w", err)
	}
	o.Subvol = snap.ID()
	return func() error {
		ctx := context.WithoutCancel(ctx)
		err := snap.Discard(ctx)
		if err == nil {
			err = fs.Commit(ctx)
		}
		return err
	}, nil
}

// goodParent chooses the parent among clone sources.
func (fs *FS) goodParent(ctx context.Context, id ondisk.TreeID, sources []ondisk.TreeID) (ondisk.TreeID, error) {
	all, err := fs.Subvolumes(ctx)
	if err != nil {
		return 0, err
	}
	find := func(match func(in *subvol.Info) bool) *subvol.Info {
		if i := slices.IndexFunc(all, func(in subvol.Info) bool { return match(&in) }); i >= 0 {
			return &all[i]
		}
		return nil
	}
	byID := func(id ondisk.TreeID) *subvol.Info { return find(func(in *subvol.Info) bool { return in.ID == id }) }
	parentOf := func(in *subvol.Info) *subvol.Info {
		if in == nil || in.ParentUUID.IsZero() {
			return nil
		}
		return find(func(p *subvol.Info) bool { return p.UUID == in.ParentUUID })
	}
	parent := parentOf(byID(id))
	if parent == nil {
		return 0, fmt.Errorf("it is no snapshot of a subvolume that is there, so none of the clone sources can be its parent: name the parent: %w", fserr.ErrNotFound)
	}
	if slices.Contains(sources, parent.ID) {
		return parent.ID, nil
	}
	var best *subvol.Info
	far := func(in *subvol.Info) ondisk.Generation {
		return max(in.CTransID, parent.CTransID) - min(in.CTransID, parent.CTransID)
	}
	for _, src := range sources {
		in := byID(src)
		if p := parentOf(in); p != nil && p.ID == parent.ID && (best == nil || far(in) < far(best)) {
			best = in
		}
	}
	if best == nil {
		return 0, fmt.Errorf("none of the clone sources is a snapshot of the same subvolume: name the parent: %w", fserr.ErrNotFound)
	}
	return best.ID, nil
}
