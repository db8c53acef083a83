package oracle

import (
	"strings"
	"testing"
)

func TestMissingToolSkipsLocallyAndFailsInCI(t *testing.T) {
	for _, c := range []struct {
		ci, oracle string
		wantFailed bool
	}{
		{"", "", false},
		{"false", "", false},
		{"true", "", true},
		{"1", "", true},
		{"", "required", true},
	} {
		t.Setenv("CI", c.ci)
		t.Setenv("IMGTOOL_ORACLE", c.oracle)
		got := observe(func(tb testing.TB) {
			absent(tb, "no such thing")
			tb.Errorf("went on without its oracle")
		})
		if got.failed != c.wantFailed || got.skipped == c.wantFailed {
			t.Errorf("CI=%q IMGTOOL_ORACLE=%q: failed=%v skipped=%v", c.ci, c.oracle, got.failed, got.skipped)
		}
		if text := got.text.String(); !strings.Contains(text, SkipPrefix+"no such thing") || strings.Contains(text, "went on") {
			t.Errorf("CI=%q IMGTOOL_ORACLE=%q: %q", c.ci, c.oracle, text)
		}
	}
}

func TestNeedNamesTheMissingTool(t *testing.T) {
	Need(t)
	t.Setenv("CI", "true")
	got := observe(func(tb testing.TB) { Need(tb, "imgtool-no-such-tool") })
	if !got.failed || !strings.Contains(got.text.String(), "imgtool-no-such-tool") {
		t.Errorf("failed=%v: %q", got.failed, got.text.String())
	}
}

func TestSeed(t *testing.T) {
	t.Setenv("IMGTOOL_SEED", "0x2a")
	got := observe(func(tb testing.TB) {
		if s := Seed(tb); s != 42 {
			tb.Errorf("seed %d", s)
		}
	})
	if got.failed || !strings.Contains(got.text.String(), "IMGTOOL_SEED=42") {
		t.Errorf("failed=%v: %q", got.failed, got.text.String())
	}
	t.Setenv("IMGTOOL_SEED", "x")
	if got := observe(func(tb testing.TB) { Seed(tb) }); !got.failed {
		t.Error("a seed that is no number was accepted")
	}
}

func TestProgsVersion(t *testing.T) {
	major, minor := ProgsVersion(t)
	if major < 5 {
		t.Errorf("btrfs-progs %d.%d", major, minor)
	}
	t.Setenv("CI", "true")
	if got := observe(func(tb testing.TB) { NeedProgs(tb, major, minor) }); got.failed {
		t.Errorf("own version refused: %s", got.text.String())
	}
	if got := observe(func(tb testing.TB) { NeedProgs(tb, major, minor+1) }); !got.failed {
		t.Error("a later version than the installed one was granted")
	}
}
