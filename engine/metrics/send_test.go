package metrics_test

import (
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"imgtool/engine/metrics"
)

// TestSend reads the counters of a send where the send keeps them, at each scrape anew.
func TestSend(t *testing.T) {
	r := metrics.New()
	var n atomic.Uint64
	r.NewSend("u", metrics.SendFigures{Commands: n.Load, Bytes: n.Load, Inodes: n.Load, Searches: n.Load, CacheHits: n.Load, Waits: n.Load})
	for _, now := range []string{"5", "7"} {
		n.Add(2)
		if now == "5" {
			n.Store(5)
		}
		want := `# HELP imgtool_btrfs_send_waits_total Times that a send's output was full.
# TYPE imgtool_btrfs_send_waits_total counter
imgtool_btrfs_send_waits_total{uuid="u"} ` + now + "\n"
		if err := testutil.GatherAndCompare(r.Gatherer(), strings.NewReader(want), "imgtool_btrfs_send_waits_total"); err != nil {
			t.Error(err)
		}
	}
	if count, err := testutil.GatherAndCount(r.Gatherer()); err != nil || count != 6 {
		t.Errorf("%d metrics, %v", count, err)
	}
	if problems, err := testutil.GatherAndLint(r.Gatherer()); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}
