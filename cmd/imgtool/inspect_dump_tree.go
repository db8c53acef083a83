package main

import (
	"context"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"imgtool/engine/fserr"
	"imgtool/engine/inspect"
	"imgtool/engine/ondisk"
)

const dumpTreeLong = `Print trees, one tree, or single blocks, as ` + "`btrfs inspect-internal dump-tree`" + ` does. Where a block
cannot be read the output has a line that begins with "ERROR: skipped:", and the exit status is 3.`

func (a *app) dumpTreeCmd() *cobra.Command {
	var tree string
	var blocks []uint
	var o inspect.Options
	cmd := &cobra.Command{
		Use: "dump-tree [-t TREE] [-b BLOCK]... IMAGE", Short: "print trees, one tree, or single blocks", Long: dumpTreeLong, Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if tree != "" {
				var err error
				if o.Tree, err = inspect.ParseTree(tree); err != nil {
					return usage(cmd, err)
				}
			}
			for _, b := range blocks {
				o.Blocks = append(o.Blocks, ondisk.Logical(b))
			}
			if o.Follow && len(blocks) == 0 {
				return usagef(cmd, "--follow needs a block: add -b BLOCK")
			}
			o.Banner = banner()
			return a.read(cmd.Context(), args[0], func(s *session) error {
				err := inspect.DumpTree(cmd.Context(), a.out, rawBlocks{s}, o)
				return advise(err, fs.ErrNotExist, "`dump-tree -r` shows the trees there are")
			})
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVarP(&tree, "tree", "t", "", "only this `TREE`: a number, or a name such as root, extent, fs, csum, free-space")
	f.UintSliceVarP(&blocks, "block", "b", nil, "only the block at logical address `BLOCK` (repeatable)")
	f.BoolVar(&o.Follow, "follow", false, "with -b, also what lies below the block")
	f.BoolVarP(&o.Roots, "roots", "r", false, "only where the roots of the trees are")
	f.BoolVarP(&o.Backups, "backups", "R", false, "where the roots are, and the superblock's backup roots")
	f.BoolVar(&o.DFS, "dfs", false, "depth first, instead of level by level")
	f.BoolVar(&o.HideNames, "hide-names", false, "do not print names of files, subvolumes and xattrs")
	return cmd
}

// rawBlocks reads tree blocks past the cache and past treecheck, for whoever looks at an image may want to see what is
// wrong with it; only the checksum decides which copy is taken.
type rawBlocks struct{ *session }

func (r rawBlocks) ReadTreeBlock(ctx context.Context, addr ondisk.Logical) (ondisk.Block, error) {
	sb, vol := r.Super(), r.Volume()
	var err error
	for i := range max(1, vol.Copies(addr)) {
		b := make(ondisk.Block, sb.NodeSize())
		if err = vol.ReadCopy(ctx, addr, b, i); err != nil {
			continue
		}
		if sb.Checksum().BlockCsumOK(b) {
			return b, nil
		}
		err = fserr.Corruptf("block", 0, uint64(addr), "the checksum of copy %d is wrong", i+1)
	}
	return nil, fmt.Errorf("no copy is readable: %w", err)
}
