package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"imgtool/disk"
	"imgtool/engine/fserr"
	"imgtool/engine/mkfs"
)

// FormatOptions say what file system to make and how to open it afterwards.
type FormatOptions struct {
	mkfs.Options // start from mkfs.Default()
	OpenOptions  // ReadOnly, Devices and Copy are not used; its Now is taken for both
	// Size is the size of the file system in bytes; 0 takes all of the device. A missing image is made with it.
	Size uint64
	// Force overwrites another file system.
	Force bool
	// KeepData leaves out the discard of the whole device.
	KeepData bool
}

// Format makes a file system in the image or block device at path and returns it open for writing, with everything
// committed. A missing image is created, sparse; an existing regular file becomes Size bytes long.
//
// Errors: disk.ErrBusy, fserr.ErrExist when something else is there and Force was not given, fserr.ErrInvalid for
// options and sizes. An image that Format created is removed again when it fails.
func Format(ctx context.Context, path string, o FormatOptions) (*FS, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	dev, created, err := openForFormat(path, &o)
	if err != nil {
		return nil, err
	}
	f, err := FormatDevice(ctx, dev, o)
	if err != nil && created {
		err = errors.Join(err, os.Remove(path))
	}
	return f, err
}

// openForFormat opens or creates the image.
func openForFormat(path string, o *FormatOptions) (dev *disk.File, created bool, err error) {
	do := disk.Options{Direct: o.Direct, Warn: o.Warn}
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if o.Size == 0 {
			return nil, false, fmt.Errorf("%s does not exist: give the size of the image with --byte-count: %w", path, fs.ErrNotExist)
		}
		if err := o.CheckSize(o.Size); err != nil {
			return nil, false, fmt.Errorf("%s: %w", path, err)
		}
		dev, err = disk.Create(path, int64(o.Size), do)
		return dev, err == nil, err
	case err != nil:
		return nil, false, err
	case st.Mode().IsRegular() && o.Size != 0 && uint64(st.Size()) < o.Size:
		// An image that is too short grows, as it does under mkfs.btrfs -b; one that is longer keeps its length. It is
		// looked at before, so that a refusal changes nothing.
		if err := o.CheckSize(o.Size); err != nil {
			return nil, false, fmt.Errorf("%s: %w", path, err)
		}
		if st.Size() > 0 && !o.Force {
			if err := checkForeignFile(path, do); err != nil {
				return nil, false, err
			}
		}
		do.Reuse = true
		dev, err = disk.Create(path, int64(o.Size), do)
		return dev, false, err
	}
	dev, err = disk.Open(path, do)
	return dev, false, err
}

func checkForeignFile(path string, do disk.Options) error {
	dev, err := disk.Open(path, do)
	if err != nil {
		return err
	}
	return errors.Join(checkForeign(context.Background(), dev), dev.Close())
}

// FormatDevice is Format for a device that is open already. The FS owns it: Close closes it, and so does a failure.
func FormatDevice(ctx context.Context, dev disk.Device, o FormatOptions) (*FS, error) {
	f, err := formatDevice(ctx, dev, o)
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	return f, nil
}

func formatDevice(ctx context.Context, dev disk.Device, o FormatOptions) (*FS, error) {
	size := o.Size
	if size == 0 {
		size = uint64(dev.Size())
	}
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if size > uint64(dev.Size()) {
		return nil, fmt.Errorf("%s: %d bytes are wanted and the device has %d: %w", dev.Name(), size, dev.Size(), fserr.ErrInvalid)
	}
	if err := o.CheckSize(size); err != nil {
		return nil, fmt.Errorf("%s: %w", dev.Name(), err)
	}
	if !o.Force {
		if err := checkForeign(ctx, dev); err != nil {
			return nil, err
		}
	}
	if err := clearDevice(ctx, dev, size, o.KeepData); err != nil {
		return nil, err
	}
	if o.OpenOptions.Now != nil {
		o.Options.Now = o.OpenOptions.Now
	}
	vol, err := mkfs.Seed(ctx, dev, size, o.Options)
	if err != nil {
		return nil, err
	}
	o.OpenOptions.Now, o.ReadOnly, o.ForceReadonly = o.Options.Now, false, false
	f, err := assemble(ctx, []disk.Device{dev}, vol, o.OpenOptions)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dev.Name(), err)
	}
	if err := f.complete(ctx, &o.Options); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", dev.Name(), err), f.release())
	}
	return f, nil
}

// clearDevice discards the device and takes away what tells other tools of an older file system. Reading back first
// keeps a sparse image sparse.
func clearDevice(ctx context.Context, dev disk.Device, size uint64, keep bool) error {
	if !keep {
		if err := dev.Discard(ctx, 0, int64(size)); err != nil {
			return fmt.Errorf("discard (leave it out with --nodiscard): %w", err)
		}
	}
	for _, r := range wipeRanges(dev.Size()) {
		buf := make([]byte, r.n)
		if _, err := dev.ReadAt(ctx, buf, r.off); err != nil {
			return err
		}
		if allZero(buf) {
			continue
		}
		clear(buf)
		if _, err := dev.WriteAt(ctx, buf, r.off); err != nil {
			return err
		}
	}
	return nil
}
