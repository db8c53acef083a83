package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"imgtool": main})
}

// TestScript runs testdata/script. Beyond testscript's own words the scripts have:
//
//	check IMAGE           btrfs check accepts the image; passed over where btrfs-progs is missing and not required
//	exits STATUS CMD...   the command ends with that status; stdout and stderr can be matched afterwards
//	patch FILE OFF HEX    writes bytes into a file
//	[oracle]              btrfs-progs is there, or required
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"check": scriptCheck, "exits": scriptExits, "patch": scriptPatch,
		},
		Setup: func(e *testscript.Env) error { e.Setenv("TZ", "UTC"); return nil },
		Condition: func(cond string) (bool, error) {
			if cond == "oracle" {
				return btrfsProgs() != "", nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		RequireUniqueNames: true,
	})
}

// btrfsProgs is the path of the btrfs tool, empty where it is missing and nobody said that it must be there (as
// package oracle has it, which is not visible from here).
func btrfsProgs() string {
	for _, name := range []string{"btrfs", "/usr/local/sbin/btrfs", "/usr/sbin/btrfs", "/sbin/btrfs"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if required() {
		return "btrfs"
	}
	return ""
}

// required tells whether a missing oracle fails a test, instead of passing it over.
func required() bool {
	ci, _ := strconv.ParseBool(os.Getenv("CI"))
	return ci || os.Getenv("IMGTOOL_ORACLE") == "required"
}

// btrfsCheck is what btrfs check has against an image.
func btrfsCheck(img string) error {
	out, err := exec.Command(btrfsProgs(), "check", "--readonly", "--check-data-csum", img).CombinedOutput()
	if err == nil && !strings.Contains(string(out), "no error found") {
		err = errors.New("it does not say that there is no error")
	}
	if err != nil {
		return fmt.Errorf("btrfs check %s: %w\n%s", img, err, out)
	}
	return nil
}

// checkImage is the word check of the scripts for other tests.
func checkImage(t *testing.T, img string) {
	t.Helper()
	if btrfsProgs() == "" {
		t.Skip("oracle missing: no btrfs on this machine; run .ci/deps.sh")
	}
	if err := btrfsCheck(img); err != nil {
		t.Error(err)
	}
}

func scriptCheck(ts *testscript.TestScript, neg bool, args []string) {
	if btrfsProgs() == "" {
		ts.Logf("oracle missing: no btrfs on this machine; run .ci/deps.sh")
		return
	}
	for _, img := range args {
		if err := btrfsCheck(ts.MkAbs(img)); (err != nil) != neg {
			ts.Fatalf("%s: %v", img, err)
		}
	}
}

func scriptExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS CMD...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

func scriptPatch(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: patch FILE OFF HEX")
	}
	off, err := strconv.ParseInt(args[1], 0, 64)
	ts.Check(err)
	b, err := hex.DecodeString(args[2])
	ts.Check(err)
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_WRONLY, 0)
	ts.Check(err)
	_, err = f.WriteAt(b, off)
	ts.Check(errors.Join(err, f.Close()))
}
