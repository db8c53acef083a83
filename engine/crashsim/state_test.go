package crashsim

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"imgtool/engine"
	"imgtool/engine/manifest"
	"imgtool/engine/ondisk"
)

// stateOf is what is compared of a file system: the manifest of all of it, and a line for each subvolume.
func stateOf(ctx context.Context, fs *engine.FS) ([]byte, error) {
	b, err := manifestOf(ctx, fs, ondisk.FSTree)
	if err != nil {
		return nil, err
	}
	list, err := fs.Subvolumes(ctx)
	if err != nil {
		return nil, err
	}
	for _, in := range list {
		b = fmt.Appendf(b, "%s%d,\"path\":%q,\"readonly\":%v,\"uuid\":%q,\"parent\":%q,\"received\":%q,\"stransid\":%d,\"rtransid\":%d}\n", subvolLine,
			in.ID, in.Path, in.Readonly, in.UUID, in.ParentUUID, in.ReceivedUUID, in.STransID, in.RTransID)
	}
	return b, nil
}

const subvolLine = `{"subvolume":`

// filesOf is the part of a state that is a manifest.
func filesOf(state []byte) []byte {
	if at := bytes.Index(state, []byte("\n"+subvolLine)); at >= 0 {
		return state[:at+1]
	}
	return state
}

func manifestOf(ctx context.Context, fs *engine.FS, id ondisk.TreeID) ([]byte, error) {
	ns, err := fs.Namespace(ctx, id)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := manifest.Write(ctx, &b, ns); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return b.Bytes(), nil
}

// asReceived is a subvolume's manifest as far as a stream carries it: inodes are numbered as they come, the place of a
// subvolume is not there, nor does it count in the size of the directory, the top directory has no time (see samestream
// and sendtest: an incremental stream need not set it), and symbolic links have no permissions.
func asReceived(m []byte) ([]byte, error) {
	const placeholder = 2 // the inode number that such a place shows
	var out bytes.Buffer
	numbers := map[string]int{}
	enc := json.NewEncoder(&out)
	for line := range bytes.Lines(m) {
		var l map[string]any
		d := json.NewDecoder(bytes.NewReader(line))
		d.UseNumber()
		if err := d.Decode(&l); err != nil {
			return nil, err
		}
		ino := fmt.Sprint(l["ino"])
		if ino == fmt.Sprint(placeholder) {
			continue
		}
		if _, known := numbers[ino]; !known {
			numbers[ino] = len(numbers)
		}
		l["ino"] = numbers[ino]
		if l["type"] == "dir" {
			delete(l, "size")
		}
		if l["type"] == "symlink" {
			delete(l, "mode")
		}
		if l["path"] == "." {
			delete(l, "mtime")
		}
		if err := enc.Encode(l); err != nil { // in the order of the keys
			return nil, err
		}
	}
	return out.Bytes(), nil
}

// hidden lists what is on its way out or in: trees without references, and orphan items of trees.
func hidden(ctx context.Context, fs *engine.FS) (list []string, err error) {
	first := ondisk.Key{}
	last := ondisk.Key{ObjectID: ^ondisk.ObjectID(0), Type: 255, Offset: ^uint64(0)}
	err = fs.DB().RootTree().Scan(ctx, first, last, func(k ondisk.Key, item []byte) (bool, error) {
		switch {
		case k.Type == ondisk.OrphanItemKey:
			list = append(list, fmt.Sprintf("orphan item of tree %d", k.Offset))
		case k.Type == ondisk.RootItemKey && ondisk.AsRootItem(item).Refs() == 0 && ondisk.TreeID(k.ObjectID).IsSubvolume():
			list = append(list, fmt.Sprintf("tree %d without references", k.ObjectID))
		}
		return true, nil
	})
	return list, err
}
