package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"imgtool/engine"
	"imgtool/engine/copytree"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
)

// mkfsImported is what --rootdir copied.
type mkfsImported struct {
	Source string `json:"source"`
	Inodes uint64 `json:"inodes"`
	Bytes  uint64 `json:"bytes"`
}

// rootdir is a directory tree to fill the file system with; nil for none.
type rootdir struct {
	dir     string
	subvols []subvolFlag
	bytes   uint64 // of data, where that was counted; for the progress bar
}

// subvolFlag is one --subvol.
type subvolFlag struct {
	path                string // below the directory, slashes, cleaned
	readonly, isDefault bool
}

// source is what --rootdir and --subvol ask for.
func (f *mkfsFlags) source() (*rootdir, error) {
	if f.rootdir == "" {
		if len(f.subvols) > 0 {
			return nil, fmt.Errorf("--subvol names a directory of --rootdir: give that, too")
		}
		return nil, nil
	}
	r := &rootdir{dir: f.rootdir}
	defaults := 0
	seen := map[string]bool{}
	for _, text := range f.subvols {
		s, err := parseSubvol(text)
		if err != nil {
			return nil, err
		}
		if seen[s.path] {
			return nil, fmt.Errorf("--subvol %s is given twice", s.path)
		}
		seen[s.path] = true
		if s.isDefault {
			defaults++
		}
		st, err := os.Lstat(filepath.Join(r.dir, filepath.FromSlash(s.path)))
		if err != nil {
			return nil, fmt.Errorf("--subvol: %w", err)
		}
		if !st.IsDir() {
			return nil, fmt.Errorf("--subvol %s is not a directory", s.path)
		}
		r.subvols = append(r.subvols, s)
	}
	if defaults > 1 {
		return nil, fmt.Errorf("--subvol: only one can be the default")
	}
	return r, nil
}

// check finds out whether there is a directory to copy, before what is in the image goes for it.
func (r *rootdir) check() error {
	if r == nil {
		return nil
	}
	d, err := os.OpenFile(r.dir, os.O_RDONLY|unix.O_DIRECTORY, 0) // it is not read: that would give it another access time
	if err == nil {
		err = d.Close()
	}
	if err != nil {
		return fmt.Errorf("--rootdir: %w", err)
	}
	return nil
}

// parseSubvol reads "[rw|ro|default|default-ro:]DIR". A directory whose name has a colon needs one of the words.
func parseSubvol(text string) (s subvolFlag, err error) {
	s.path = text
	if word, rest, ok := strings.Cut(text, ":"); ok {
		s.path = rest
		switch word {
		case "rw":
		case "ro":
			s.readonly = true
		case "default":
			s.isDefault = true
		case "default-ro":
			s.isDefault, s.readonly = true, true
		default:
			return s, fmt.Errorf("--subvol %s: %q is not rw, ro, default or default-ro", text, word)
		}
	}
	clean := path.Clean(filepath.ToSlash(s.path))
	if s.path == "" || clean == "." || path.IsAbs(clean) || clean == ".." || strings.HasPrefix(clean, "../") {
		return s, fmt.Errorf("--subvol %s: name a directory below --rootdir", text)
	}
	s.path = clean
	return s, nil
}

// chooseSize is for an image that does not exist and was given no size.
func (r *rootdir) chooseSize(ctx context.Context, image string, o *engine.FormatOptions) error {
	if r == nil || o.Size != 0 || exists(image) {
		return nil
	}
	need, err := copytree.SizeNeeded(ctx, r.dir, o.Options)
	if err != nil {
		return err
	}
	r.bytes, o.Size = need.Data, copytree.ImageSize(need, o.Options)
	return nil
}

// fill copies the tree into the new file system and commits. The parts that become subvolumes are left out first, and
// then copied each into its own, the outer ones before those inside them.
func (a *app) fill(ctx context.Context, s *session, r *rootdir) (*mkfsSummary, error) {
	if r == nil {
		return summarize(s), nil
	}
	bar := a.progress("copying "+r.dir, r.bytes)
	defer bar.stop()
	im := &mkfsImported{Source: r.dir}
	slices.SortFunc(r.subvols, func(a, b subvolFlag) int { return cmp.Compare(a.path, b.path) })
	if err := r.copy(ctx, s, im, bar, ondisk.FSTree, ""); err != nil {
		return nil, err
	}
	for _, sub := range r.subvols {
		if err := r.subvolume(ctx, s, im, bar, sub); err != nil {
			return nil, fmt.Errorf("--subvol %s: %w", sub.path, err)
		}
	}
	// Once nothing is copied any more: a subvolume inside another needs that one writable.
	for _, sub := range r.subvols {
		if err := s.flagSubvolume(ctx, sub); err != nil {
			return nil, fmt.Errorf("--subvol %s: %w", sub.path, err)
		}
	}
	if err := s.Commit(ctx); err != nil {
		return nil, err
	}
	sum := summarize(s)
	sum.Imported = im
	return sum, nil
}

// copy copies the directory at a path below the tree, but for subvolumes in it, into the top of a subvolume.
func (r *rootdir) copy(ctx context.Context, s *session, im *mkfsImported, bar *progress, id ondisk.TreeID, at string) error {
	tree, err := s.Subvolume(ctx, id)
	if err != nil {
		return err
	}
	before := *im
	image := inside(r.dir, s.Name())
	p, err := copytree.Import(ctx, tree, inode.RootDir, filepath.Join(r.dir, filepath.FromSlash(at)), copytree.ImportOptions{
		TopAttrs: true,
		Skip: func(rel string) bool {
			if path.Join(at, rel) == image {
				return true
			}
			return slices.ContainsFunc(r.subvols, func(s subvolFlag) bool { return s.path == path.Join(at, rel) })
		},
		Progress: func(p copytree.Progress) { bar.update(before.Bytes + p.Bytes) },
	})
	im.Inodes, im.Bytes = before.Inodes+p.Inodes, before.Bytes+p.Bytes
	return err
}

// subvolume makes a subvolume and copies its directory into it. The directory that holds it keeps its times.
func (r *rootdir) subvolume(ctx context.Context, s *session, im *mkfsImported, bar *progress, sub subvolFlag) error {
	up, err := s.find(ctx, path.Dir("/"+sub.path), true)
	if err != nil {
		return err
	}
	id, err := s.CreateSubvolume(ctx, "/"+sub.path, subvol.CreateOptions{})
	if err != nil {
		return err
	}
	tree, err := s.writable(ctx, up.Node)
	if err != nil {
		return err
	}
	if err := tree.Utimes(ctx, up.Ino, up.item.ATime(), up.item.MTime()); err != nil {
		return err
	}
	return r.copy(ctx, s, im, bar, id, sub.path)
}

// flagSubvolume makes it the default and read-only, if that was asked for.
func (s *session) flagSubvolume(ctx context.Context, sub subvolFlag) error {
	id, err := s.SubvolumeAt(ctx, "/"+sub.path)
	if err == nil && sub.isDefault {
		err = s.SetDefaultSubvolume(ctx, id)
	}
	if err == nil && sub.readonly {
		err = s.SetReadonly(ctx, id, true)
	}
	return err
}
