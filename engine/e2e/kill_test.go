package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"imgtool/engine"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/manifest"
	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
	"imgtool/engine/trace"
)

// The phases of a commit in which the workload is killed: each begins with one trace event and ends with the next.
var killPhases = []trace.Kind{trace.CommitDoing, trace.CommitRootsSwitched, trace.BlocksWritten, trace.SuperWritten}

// TestKilled kills a process with SIGKILL in the middle of a write workload, in each phase of a commit and at random
// moments. The image is then at a committed state, nothing is lost that a finished commit covered, and it goes on.
func TestKilled(t *testing.T) {
	inPhase, random := 10, 10
	if testing.Short() {
		inPhase, random = 2, 2
	}
	seed := oracle.Seed(t)
	rnd := rand.New(rand.NewPCG(uint64(seed), 7))
	compared, runs := 0, 0
	run := func(t *testing.T, phase trace.Kind) {
		runs++
		if killOnce(t, phase, rnd) {
			compared++
		}
	}
	for _, phase := range killPhases {
		for i := range inPhase {
			t.Run(fmt.Sprintf("%v/%d", phase, i), func(t *testing.T) { run(t, phase) })
		}
	}
	for i := range random {
		t.Run(fmt.Sprintf("anywhere/%d", i), func(t *testing.T) { run(t, trace.None) })
	}
	if compared*2 < runs {
		t.Errorf("the state was compared with the log in %d of %d runs only", compared, runs)
	}
}

// killOnce runs the workload in a process of its own until it is killed, and looks at what is left. It reports whether
// the log knows the state that the image is in.
func killOnce(t *testing.T, phase trace.Kind, rnd *rand.Rand) bool {
	img, fs := create(t, 256<<20, nil)
	_, err := fs.CreateSubvolume(t.Context(), "logged", subvol.CreateOptions{})
	must(t, err)
	_, err = fs.CreateSubvolume(t.Context(), "other", subvol.CreateOptions{})
	must(t, err)
	must(t, fs.Commit(t.Context()))
	must(t, fs.Close())
	log := filepath.Join(t.TempDir(), "log")
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self, "-test.run", "^TestKillChild$")
	cmd.Env = append(os.Environ(), "KILL_IMAGE="+img, "KILL_LOG="+log, fmt.Sprintf("KILL_PHASE=%d", phase),
		fmt.Sprintf("KILL_SEED=%d", rnd.Uint64()))
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the workload was not killed (%v):\n%s", err, out)
	}
	return afterKill(t, img, log)
}

// afterKill compares the image with the log, lets both checkers look, and goes on writing.
func afterKill(t *testing.T, img, log string) bool {
	meant, done := readLog(t, log)
	oracle.Check(t, img)
	fs, err := engine.Open(t.Context(), img, engine.OpenOptions{ReadOnly: true})
	must(t, err)
	sb := fs.Super()
	gen := sb.Generation()
	if gen < done {
		t.Errorf("the image is at generation %d, and the commit of %d had finished", gen, done)
	}
	want, known := meant[gen]
	if known {
		if got := loggedHash(t.Context(), fs); got != want {
			t.Errorf("generation %d is not the state that was committed", gen)
		}
	}
	must(t, fs.Close())

	fs = reopen(t, img)
	id, err := fs.SubvolumeAt(t.Context(), "logged")
	must(t, err)
	tree, err := fs.Subvolume(t.Context(), id)
	must(t, err)
	_, err = tree.Create(t.Context(), 256, "after the crash", inode.Attr{Mode: 0o644})
	must(t, err)
	finish(t, fs, img)
	return known
}

// readLog returns the manifest hash meant for each generation, and the last generation whose commit had finished.
func readLog(t *testing.T, log string) (meant map[ondisk.Generation]string, done ondisk.Generation) {
	meant = map[ondisk.Generation]string{}
	text, err := os.ReadFile(log)
	if os.IsNotExist(err) {
		return meant, 0
	}
	must(t, err)
	for line := range strings.Lines(string(text)) {
		if !strings.HasSuffix(line, "\n") {
			break // the kill has cut it off
		}
		w := strings.Fields(line)
		n, err := strconv.ParseUint(w[1], 10, 64)
		must(t, err)
		if w[0] == "meant" {
			meant[ondisk.Generation(n)] = w[2]
		} else {
			done = ondisk.Generation(n)
		}
	}
	return meant, done
}

// loggedHash is the hash of the manifest of subvolume "logged".
func loggedHash(ctx context.Context, fs *engine.FS) string {
	h := sha256.New()
	id, err := fs.SubvolumeAt(ctx, "logged")
	if err != nil {
		return err.Error()
	}
	ns, err := fs.Namespace(ctx, id)
	if err != nil {
		return err.Error()
	}
	if err := manifest.Write(ctx, h, ns); err != nil {
		return err.Error()
	}
	return hex.EncodeToString(h.Sum(nil))
}

// TestKillChild is the workload. It only runs as a child of TestKilled, and does not return.
func TestKillChild(t *testing.T) {
	img := os.Getenv("KILL_IMAGE")
	if img == "" {
		return // in a normal run of the suite there is nothing to do
	}
	phase, _ := strconv.Atoi(os.Getenv("KILL_PHASE"))
	seed, _ := strconv.ParseUint(os.Getenv("KILL_SEED"), 10, 64)
	rnd := rand.New(rand.NewPCG(seed, 8))
	fs, err := engine.Open(t.Context(), img, engine.OpenOptions{Tracer: killer(trace.Kind(phase), rnd)})
	must(t, err)
	log, err := os.OpenFile(os.Getenv("KILL_LOG"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	must(t, err)
	go otherWriter(fs, seed)
	id, err := fs.SubvolumeAt(t.Context(), "logged")
	must(t, err)
	tree, err := fs.Subvolume(t.Context(), id)
	must(t, err)
	for i := 0; ; i++ {
		change(t, tree, rnd, i)
		note(t, log, "meant", fs.DB().Generation(), loggedHash(t.Context(), fs))
		gen := fs.DB().Generation()
		must(t, fs.Commit(t.Context()))
		note(t, log, "done", gen, "")
	}
}

// note writes a line and makes it durable.
func note(t *testing.T, f *os.File, what string, gen ondisk.Generation, hash string) {
	_, err := fmt.Fprintln(f, what, uint64(gen), hash)
	must(t, err)
	must(t, f.Sync())
}

// killer kills this process a random moment after the phase has begun, in one of the first commits; with trace.None
// at a random moment.
func killer(phase trace.Kind, rnd *rand.Rand) trace.Tracer {
	die := func(after time.Duration) {
		go func() {
			time.Sleep(after)
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}()
	}
	if phase == trace.None {
		die(time.Duration(20+rnd.IntN(400)) * time.Millisecond)
		return nil
	}
	var seen atomic.Int32
	which, after := int32(1+rnd.IntN(8)), time.Duration(rnd.IntN(1500))*time.Microsecond
	at := rnd.IntN(2) == 0
	return trace.Func(func(e trace.Event) {
		if e.Kind != phase || seen.Add(1) != which {
			return
		}
		if at { // in the very step, with nothing of the phase done
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		die(after)
	})
}

// change makes some changes of every kind in the logged subvolume.
func change(t *testing.T, tree *inode.FileTree, rnd *rand.Rand, round int) {
	ctx := t.Context()
	for i := range 20 {
		name := fmt.Sprintf("%d-%d", round, i)
		ino, err := tree.Create(ctx, 256, name, inode.Attr{Mode: 0o644})
		must(t, err)
		_, err = tree.WriteAt(ctx, ino, make([]byte, rnd.IntN(30000)), 0)
		must(t, err)
		if i%4 == 3 {
			must(t, tree.Unlink(ctx, 256, name))
		}
		if i%4 == 2 {
			must(t, tree.Rename(ctx, 256, fmt.Sprintf("%d-%d", round, i-1), 256, name+"-renamed", 0))
		}
	}
}

// otherWriter keeps T+1 busy while T is written out, in a subvolume that the log does not cover.
func otherWriter(fs *engine.FS, seed uint64) {
	ctx := context.Background()
	rnd := rand.New(rand.NewPCG(seed, 9))
	id, err := fs.SubvolumeAt(ctx, "other")
	if err != nil {
		return
	}
	_ = writer(ctx, fs, id, rnd, func(int) bool { return true })
}
