package oracle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"imgtool/disk"
	"imgtool/engine/check"
)

// ownCheck asks imgtool's own checker, which shares no code with what writes images.
func ownCheck(dataCsum bool, imgs ...string) (err error) {
	var devs []disk.Device
	defer func() {
		for _, d := range devs {
			err = errors.Join(err, d.Close())
		}
	}()
	for _, img := range imgs {
		d, err := disk.Open(img, disk.Options{ReadOnly: true, Direct: disk.DirectOff})
		if err != nil {
			return err
		}
		devs = append(devs, d)
	}
	rep, err := check.Image(context.Background(), devs, check.Options{DataCsum: dataCsum})
	if err != nil {
		return err
	}
	// Warnings count, too: images of tests are new. All but one: a kill or a failing device between the primary
	// superblock and its mirror leaves the mirror a generation behind, as it should.
	counts := slices.DeleteFunc(rep.Counts, func(c check.Count) bool { return c.ID == check.SuperOld })
	if len(counts) == 0 {
		return nil
	}
	var b strings.Builder
	for i := range rep.Findings {
		fmt.Fprintln(&b, rep.Findings[i].String())
	}
	return errors.New(clip([]byte(b.String())))
}
