package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
)

// mkfsFlags are the flags of mkfs as they were given.
type mkfsFlags struct {
	label, uuid          string
	nodeSize, sectorSize size
	meta, data, csum     string
	features             []string
	byteCount            size
	rootdir              string
	subvols              []string
	force, noDiscard     bool
	verbose              int
	json                 bool
}

const mkfsLong = `Make a btrfs file system in an image file or on a block device. A file that does not exist is
created, sparse: with --byte-count, or with --rootdir at the size which that needs and as slack a
quarter of the data, twice the metadata and 256 MiB.

--rootdir copies a directory tree into it: data, holes, hard links, symbolic links, devices,
extended attributes, owners, modes and times. --subvol makes one of its directories a subvolume;
"ro:" in front makes it read-only, "default:" what a mount without options shows, "default-ro:" both.`

func (a *app) mkfsCmd() *cobra.Command {
	var f mkfsFlags
	cmd := &cobra.Command{
		Use: "mkfs [FLAGS] IMAGE", Short: "make a file system", Long: mkfsLong,
		Args: func(cmd *cobra.Command, list []string) error {
			if f.listsFeatures() {
				return nil
			}
			return args(1, 1)(cmd, list)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.listsFeatures() {
				return a.listFeatures()
			}
			return a.mkfs(cmd, args[0], &f)
		},
	}
	p := cmd.Flags()
	p.SortFlags = false
	p.StringVarP(&f.label, "label", "L", "", "label, at most 255 bytes")
	p.StringVarP(&f.uuid, "uuid", "U", "", "UUID of the file system (default random)")
	f.nodeSize, f.sectorSize = size(mkfs.Default().NodeSize), size(mkfs.Default().SectorSize)
	p.VarP(&f.nodeSize, "nodesize", "n", "size of tree blocks: 4K to 64K")
	p.VarP(&f.sectorSize, "sectorsize", "s", "unit of data: 4K")
	p.StringVarP(&f.meta, "metadata", "m", "dup", "profile of metadata: `single|dup`")
	p.StringVarP(&f.data, "data", "d", "single", "profile of data: `single|dup`")
	p.StringVar(&f.csum, "csum", "crc32c", "checksum: `crc32c|xxhash|sha256|blake2`")
	p.StringVar(&f.csum, "checksum", "crc32c", "")
	_ = p.MarkHidden("checksum") // a spelling of mkfs.btrfs; the flag exists
	p.StringArrayVarP(&f.features, "features", "O", nil, "features on, or with ^ off; list-all prints them: `FEATURE,^FEATURE|list-all`")
	p.VarP(&f.byteCount, "byte-count", "b", "size of the file system (default all of the device)")
	p.StringVarP(&f.rootdir, "rootdir", "r", "", "copy the directory tree `DIR` into it")
	p.StringArrayVarP(&f.subvols, "subvol", "u", nil, "make `[rw|ro|default|default-ro:]DIR` of --rootdir a subvolume (repeatable)")
	p.BoolVarP(&f.force, "force", "f", false, "overwrite what is there")
	p.BoolVarP(&f.noDiscard, "nodiscard", "K", false, "do not discard the whole device first")
	p.CountVarP(&f.verbose, "verbose", "v", "tell more")
	p.BoolVar(&f.json, "json", false, "print the summary as JSON")
	return cmd
}

// listsFeatures reports whether -O list-all was given.
func (f *mkfsFlags) listsFeatures() bool {
	for _, list := range f.features {
		for word := range strings.SplitSeq(list, ",") {
			if word == "list-all" {
				return true
			}
		}
	}
	return false
}

func (a *app) listFeatures() error {
	var b strings.Builder
	b.WriteString("Filesystem features available:\n")
	for _, f := range mkfs.FeatureList {
		def := ""
		if f.Default {
			def = " (default)"
		}
		fmt.Fprintf(&b, "%-19s - %s%s\n", f.Name, f.Doc, def)
	}
	_, err := fmt.Fprint(a.out, b.String())
	return err
}

// options turns the flags into what the engine takes; its errors are usage errors.
func (f *mkfsFlags) options() (o mkfs.Options, err error) {
	o = mkfs.Default()
	o.Label, o.NodeSize, o.SectorSize = f.label, int(f.nodeSize), int(f.sectorSize)
	if f.uuid != "" {
		if o.FSID, err = parseUUID(f.uuid); err != nil {
			return o, err
		}
	}
	if o.Csum, err = ondisk.ParseCsum(strings.ToLower(f.csum)); err != nil {
		return o, err
	}
	if o.Meta, err = parseProfile("metadata", f.meta); err != nil {
		return o, err
	}
	if o.Data, err = parseProfile("data", f.data); err != nil {
		return o, err
	}
	for _, list := range f.features {
		if err := o.Features.Parse(list); err != nil {
			return o, err
		}
	}
	return o, o.Validate()
}

func parseProfile(what, s string) (uint64, error) {
	switch strings.ToLower(s) {
	case "single":
		return 0, nil
	case "dup":
		return ondisk.BGDup, nil
	}
	return 0, fmt.Errorf("profile %q of %s: use single or dup", s, what)
}

// mkfs formats the image, fills it, and prints the summary.
func (a *app) mkfs(cmd *cobra.Command, image string, f *mkfsFlags) error {
	ctx := cmd.Context()
	o, err := f.options()
	if err != nil {
		return usage(cmd, err)
	}
	src, err := f.source()
	if err != nil {
		return usage(cmd, err)
	}
	if len(a.devices) > 0 {
		return usagef(cmd, "mkfs makes file systems of one device: leave --device out")
	}
	if err := src.check(); err != nil {
		return err
	}
	watch, tracer := a.watch()
	fo := engine.FormatOptions{Options: o, OpenOptions: a.openOptions(), Size: uint64(f.byteCount), Force: f.force, KeepData: f.noDiscard}
	fo.Tracer = tracer
	if err := src.chooseSize(ctx, image, &fo); err != nil {
		return err
	}
	fs, err := engine.Format(ctx, image, fo)
	if err != nil {
		return &imageError{image, advise(err, fserr.ErrExist, "")} // its text says it all
	}
	s, err := begin(ctx, fs, watch)
	if err != nil {
		return &imageFault{image, err}
	}
	summary, err := a.fill(ctx, s, src)
	if err := s.end(ctx, err); err != nil {
		return &imageFault{image, err}
	}
	switch {
	case f.json:
		return summary.printJSON(a.out)
	case a.quiet:
		return nil
	}
	return summary.print(a.out, f.verbose > 0)
}

// exists reports whether there is anything of that name.
func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// parseUUID reads a UUID in any of its usual forms.
func parseUUID(s string) (ondisk.UUID, error) {
	u, err := uuid.Parse(s)
	if err != nil {
		return ondisk.UUID{}, fmt.Errorf("%q is not a UUID such as %s", s, uuid.Nil)
	}
	return ondisk.UUID(u), nil
}
