//go:build race

package disk

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
)

const raceChild = "DISK_TEST_RACE_CHILD"

// TestRaceIsSeen proves that the race detector sees pooled memory: a child, this very test binary, races on a pooled
// buffer on purpose and must be caught. With mapped slabs it would pass, and every clean -race run of the
// packages above would mean nothing.
func TestRaceIsSeen(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestRaceChild$", "-test.count=1")
	cmd.Env = append(os.Environ(), raceChild+"=1", "GORACE=exitcode=66")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("the child: %v, want a failure\n%s", err, out)
	}
	if !strings.Contains(string(out), "DATA RACE") || !strings.Contains(string(out), "TestRaceChild") {
		t.Errorf("no report of the race:\n%s", out)
	}
}

// TestRaceChild is the culprit; alone it does nothing.
func TestRaceChild(t *testing.T) {
	if os.Getenv(raceChild) == "" {
		t.Skip("runs as a child of TestRaceIsSeen")
	}
	p := NewPool()
	b := p.Get(16 << 10)
	done := make(chan bool)
	go func() {
		b[100] = 1
		done <- true
	}()
	b[100] = 2 // before the channel, so nothing orders it
	<-done
	p.Put(b)
}
