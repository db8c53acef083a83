package receive_test

import (
	"errors"
	"fmt"
	"testing"

	"imgtool/engine/fserr"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/receive"
	"imgtool/engine/sendstream"
)

// TestFullOfNames receives more names than there is room for into one directory, where each name of a batch may change a
// leaf of its own: the image is full, and nothing has been aborted.
func TestFullOfNames(t *testing.T) {
	sizes, lengths := []int64{112 << 20}, []int{60}
	if oracle.Soak() {
		sizes, lengths = []int64{112 << 20, 128 << 20, 200 << 20}, []int{10, 60, 200}
	}
	for _, size := range sizes {
		for _, length := range lengths {
			im := newImage(t, size)
			g := newScript(t, 1).subvol("s").path(sendstream.CmdMkdir, "d")
			for i := range int(size / 512) {
				name := fmt.Sprintf("d/%0*d", length, i*7919)
				g.path(sendstream.CmdMkfile, "t").do(sendstream.CmdRename, attrPath, "t", attrPathTo, name)
			}
			err := im.errReceive(g.end(), receive.Options{})
			if !errors.Is(err, fserr.ErrNoSpace) || im.fs.DB().Err() != nil {
				t.Errorf("%d MiB, names of %d bytes: %v", size>>20, length, err)
			}
			if got := im.subvolumes(); len(got) > 0 {
				t.Errorf("%q is left", got)
			}
			im.close()
		}
	}
}
