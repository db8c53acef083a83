package metrics_test

import (
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"imgtool/engine/metrics"
)

// TestReceive reads the counters of a receiving where it keeps them, each its own, at each scrape anew.
func TestReceive(t *testing.T) {
	r := metrics.New()
	var n [8]atomic.Uint64
	var f metrics.ReceiveFigures
	v := reflect.ValueOf(&f).Elem()
	for i := range v.NumField() {
		v.Field(i).Set(reflect.ValueOf(n[i].Load))
	}
	r.NewReceive("u", f)
	for scrape := range uint64(2) {
		for i := range n {
			n[i].Store(uint64(i+1) + 100*scrape)
		}
		got := gather(t, r)
		for i, name := range []string{"commands", "bytes", "data_bytes", "clones", "stored_extents", "unpacked_extents", "subvolumes", "errors"} {
			if have := got["receive_"+name+"_total"]; have != float64(n[i].Load()) {
				t.Errorf("%s is %v, want %d", name, have, n[i].Load())
			}
		}
	}
	want := `# HELP imgtool_btrfs_receive_clones_total Ranges of files cloned.
# TYPE imgtool_btrfs_receive_clones_total counter
imgtool_btrfs_receive_clones_total{uuid="u"} 104
`
	if err := testutil.GatherAndCompare(r.Gatherer(), strings.NewReader(want), "imgtool_btrfs_receive_clones_total"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(r.Gatherer()); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}
