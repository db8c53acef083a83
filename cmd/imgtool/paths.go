package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
)

// node is what a path leads to, with its inode item.
type node struct {
	inode.Node
	item ondisk.InodeItem
}

func (n *node) isDir() bool     { return n.item.Mode()&ondisk.ModeFmt == ondisk.ModeDir }
func (n *node) isSymlink() bool { return n.item.Mode()&ondisk.ModeFmt == ondisk.ModeLnk }

// place is where a name is or shall be, in a tree that can be changed.
type place struct {
	tree *inode.FileTree
	dir  ondisk.ObjectID
	name string
}

// find is the node of a path; follow says whether a symbolic link at its end is followed.
func (s *session) find(ctx context.Context, p string, follow bool) (*node, error) {
	at, err := s.ns.Walk(ctx, p, follow)
	if err != nil {
		return nil, advise(err, fs.ErrNotExist, "`imgtool ls` shows what there is")
	}
	return load(ctx, at, p)
}

func load(ctx context.Context, at inode.Node, p string) (*node, error) {
	item, err := at.Inode(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p, err)
	}
	return &node{at, item}, nil
}

// child is the node of a directory's entry.
func (s *session) child(ctx context.Context, dir *node, e *inode.Entry) (*node, error) {
	at, err := s.ns.Enter(ctx, dir.Node, e)
	if err != nil {
		return nil, err
	}
	return load(ctx, at, e.Name)
}

// findParent is the place of the last part of a path. Its errors name the path.
func (s *session) findParent(ctx context.Context, p string) (place, error) {
	dir, name, err := s.ns.WalkParent(ctx, p)
	if err != nil {
		return place{}, advise(err, fs.ErrNotExist, "`imgtool mkdir -p` makes the directories above")
	}
	tree, err := s.writable(ctx, dir)
	return place{tree, dir.Ino, name}, err
}

// writable is the tree of a node as one that can be changed.
func (s *session) writable(ctx context.Context, n inode.Node) (*inode.FileTree, error) {
	return s.Subvolume(ctx, n.Tree.ID())
}

// into is dest, or the place of source's name in it if it is a directory, as cp, mv and ln have it.
func (s *session) into(ctx context.Context, dest, source string) (string, error) {
	n, err := s.find(ctx, dest, true)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !n.isDir() {
		return dest, nil
	}
	if err != nil {
		return "", err
	}
	return path.Join(dest, path.Base(source)), nil
}
