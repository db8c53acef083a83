package crashsim

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"imgtool/disk"
	"imgtool/engine/check"
	"imgtool/engine/ondisk"
)

// examine asks the offline checker, who reads all copies of everything, of file data with data only. With torn, a
// superblock copy may be torn or old, as a power cut leaves it: the primary or mirrors, but not both, or there would be
// an instant without a good one.
func examine(ctx context.Context, img *disk.Mem, torn, data bool) error {
	report, err := check.Image(ctx, []disk.Device{untouched{img}}, check.Options{DataCsum: data, Workers: 1})
	if err != nil {
		return err
	}
	primary, mirror := false, false
	bad := slices.DeleteFunc(slices.Clone(report.Findings), func(f check.Finding) bool {
		if f.ID != check.SuperCsum && f.ID != check.SuperOld {
			return false
		}
		if ondisk.Physical(f.Block) == ondisk.SuperOffsets[0] {
			primary = true
		} else {
			mirror = true
		}
		return torn
	})
	if primary && mirror {
		bad = report.Findings
	}
	if len(bad) == 0 {
		return nil
	}
	var out strings.Builder
	for i := range bad[:min(len(bad), 8)] {
		fmt.Fprintf(&out, "\n%v", &bad[i])
	}
	return fmt.Errorf("%d findings:%s", len(bad), &out)
}
