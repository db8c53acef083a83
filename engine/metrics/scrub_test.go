package metrics_test

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"imgtool/engine/metrics"
)

// TestScrub brings the counters to where a scrub is, more than once.
func TestScrub(t *testing.T) {
	r := metrics.New()
	s := r.NewScrub("u")
	s.Set("data", 4096, 0, 0)
	s.Set("data", 8192, 2, 1)
	s.Set("data", 100, 2, 1) // one that was overtaken
	s.Set("super", 4096, 0, 0)
	want := `# HELP imgtool_btrfs_scrub_bytes_total Bytes that a scrub has verified, all copies counted.
# TYPE imgtool_btrfs_scrub_bytes_total counter
imgtool_btrfs_scrub_bytes_total{type="data",uuid="u"} 8192
imgtool_btrfs_scrub_bytes_total{type="super",uuid="u"} 4096
# HELP imgtool_btrfs_scrub_errors_total Bad superblocks, tree blocks and data sectors that a scrub has found.
# TYPE imgtool_btrfs_scrub_errors_total counter
imgtool_btrfs_scrub_errors_total{type="data",uuid="u"} 2
imgtool_btrfs_scrub_errors_total{type="super",uuid="u"} 0
# HELP imgtool_btrfs_scrub_repaired_total Bad superblocks, tree blocks and data sectors that a scrub has repaired.
# TYPE imgtool_btrfs_scrub_repaired_total counter
imgtool_btrfs_scrub_repaired_total{type="data",uuid="u"} 1
imgtool_btrfs_scrub_repaired_total{type="super",uuid="u"} 0
`
	if err := testutil.GatherAndCompare(r.Gatherer(), strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	problems, err := testutil.GatherAndLint(r.Gatherer())
	if err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}
