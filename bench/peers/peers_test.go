package main

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestSides runs both sides of every comparison once, in small: each does its work and says how long it took. What the
// kernel's side needs may be missing, but not in CI.
func TestSides(t *testing.T) {
	b := &bench{config: config{dir: t.TempDir(), rounds: 1, emptySize: 256 << 20, files: 30, snapshots: 3, bytes: 3<<20 + 4096, loopDIO: "off", checkFiles: 1100, checkSnapshots: 3}}
	b.imgtool = b.dir + "/imgtool"
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", b.imgtool, "imgtool/cmd/imgtool").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b.source = t.TempDir()
	if err := os.WriteFile(b.source+"/file", pattern(9000), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range comparisons {
		t.Run(c.name, func(t *testing.T) {
			m, err := c.ours(t.Context(), b)
			if err != nil || m.took <= 0 {
				t.Errorf("ours: %+v, %v", m, err)
			}
			if strings.HasPrefix(c.name, "snapshots") && m.flush < float64(b.snapshots) {
				t.Errorf("%d snapshots, each durable, with %v flushes", b.snapshots, m.flush)
			}
			need(t, c)
			if m, err := c.theirs(t.Context(), b); err != nil || m.took <= 0 {
				t.Errorf("theirs: %+v, %v", m, err)
			}
		})
	}
	left, err := os.ReadDir(b.dir)
	if err != nil || len(left) != 4 { // the command, the images that were checked and sent, and a stream
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// need skips the other side where its tools or privileges are missing.
func need(t *testing.T, c comparison) {
	t.Helper()
	why := ""
	if path, _ := os.Stat("/usr/sbin/mkfs.btrfs"); path == nil {
		if _, err := exec.LookPath("mkfs.btrfs"); err != nil {
			why = "no mkfs.btrfs on this machine"
		}
	}
	if c.needRoot && os.Geteuid() != 0 {
		why = "mounting needs root"
	}
	switch {
	case why == "":
	case os.Getenv("CI") != "":
		t.Fatal("oracle missing: " + why)
	default:
		t.Skip("oracle missing: " + why)
	}
}

func TestChoose(t *testing.T) {
	all, err := choose("")
	if err != nil || len(all) != len(comparisons) {
		t.Errorf("%d comparisons, %v", len(all), err)
	}
	some, err := choose("create-4k,mkfs-empty")
	if err != nil || len(some) != 2 || some[0].name != "create-4k" || some[1].name != "mkfs-empty" {
		t.Errorf("%d comparisons, %v", len(some), err)
	}
	if _, err := choose("create-4k,none"); err == nil {
		t.Error("a comparison that is not there was chosen")
	}
	v := []float64{4, 1, 3, 2}
	if m := median(v); m != 2.5 || !slices.Equal(v, []float64{4, 1, 3, 2}) {
		t.Errorf("median = %v, of %v", m, v)
	}
}
