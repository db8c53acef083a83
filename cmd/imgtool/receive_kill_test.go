package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// receiving is an `imgtool receive` that waits for the rest of its stream.
type receiving struct {
	*testing.T
	cmd     *exec.Cmd
	in      io.WriteCloser
	stderr  *bufio.Reader
	metrics string
}

// startReceiving starts one on an image.
func startReceiving(t *testing.T, img string, flags ...string) *receiving {
	t.Helper()
	r := &receiving{T: t, cmd: exec.Command("imgtool", append([]string{"receive", "--metrics-addr", "127.0.0.1:0", img}, flags...)...)}
	out, err := r.cmd.StderrPipe()
	if err == nil {
		r.in, err = r.cmd.StdinPipe()
	}
	if err == nil {
		err = r.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	r.stderr = bufio.NewReader(out)
	line, err := r.stderr.ReadString('\n')
	if r.metrics = regexp.MustCompile(`http://127\.0\.0\.1:\d+/metrics`).FindString(line); r.metrics == "" {
		t.Fatalf("no address in %q: %v", line, err)
	}
	return r
}

var receivedCommands = regexp.MustCompile(`(?m)^imgtool_btrfs_receive_commands_total\{.*\} (\d+)$`)

// feed gives it a piece of the stream and returns when it has carried out that many commands in all.
func (r *receiving) feed(piece []byte, commands int) {
	r.Helper()
	if _, err := r.in.Write(piece); err != nil {
		r.Fatal(err)
	}
	for {
		resp, err := http.Get(r.metrics)
		if err != nil {
			r.Fatalf("it has ended: %v", err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			r.Fatal(err)
		}
		if m := receivedCommands.FindSubmatch(text); m != nil {
			if n, _ := strconv.Atoi(string(m[1])); n == commands {
				return
			} else if n > commands {
				r.Fatalf("%d commands, want %d", n, commands)
			}
		}
	}
}

// stop sends it a signal and returns how it ended and what it said.
func (r *receiving) stop(sig os.Signal) (*os.ProcessState, string) {
	r.Helper()
	if err := r.cmd.Process.Signal(sig); err != nil {
		r.Fatal(err)
	}
	said, err := io.ReadAll(r.stderr)
	if err != nil {
		r.Fatal(err)
	}
	_ = r.cmd.Wait() // its status is in ProcessState
	return r.cmd.ProcessState, string(said)
}

// killScene is a stream under way, and what must be there besides "p" when it breaks off: subvolumes that were complete.
type killScene struct {
	name     string
	stream   []byte
	starts   []int // of the commands
	commands int   // fed before the signal
	complete []string
	onDisk   bool // some of the incomplete one is in the last commit
}

func killScenes(t *testing.T) (list []killScene) {
	add := func(name string, s *testStream, onDisk bool, complete []string, moments ...int) {
		starts := commandStarts(s.Bytes())
		for _, n := range moments {
			list = append(list, killScene{fmt.Sprintf("%s/%d", name, n), s.Bytes(), starts, n, complete, onDisk})
		}
	}
	full := newTestStream(t, "s", 'A', 0).file("a").file("b").file("c").end()
	add("full", full, false, nil, 1, 4, full.commands-1)
	incremental := newTestStream(t, "s", 'A', 'P').file("x").file("y").file("z").end()
	add("incremental", incremental, true, nil, 1, 4, incremental.commands-1)
	several := newTestStream(t, "s", 'A', 0).file("a").subvol("s2", 'B', 'A').file("b").end()
	add("second", several, true, []string{"s"}, 4, several.commands-1)
	return list
}

// commandStarts lists where the commands of one stream begin, and where it ends.
func commandStarts(b []byte) (list []int) {
	for at := 17; at < len(b); at += 10 + int(b[at]) + int(b[at+1])<<8 + int(b[at+2])<<16 {
		list = append(list, at)
	}
	return append(list, len(b))
}

// state is what must not change: the subvolumes and the bytes in use.
func state(t *testing.T, img string) (subvolumes, used string) {
	t.Helper()
	for line := range strings.Lines(imgtool(t, "subvolume", "list", img)) {
		subvolumes += line[strings.Index(line, " path ")+6:]
	}
	for _, m := range regexp.MustCompile(`(?m)^(\w+), .*used=(\d+)$`).FindAllStringSubmatch(imgtool(t, "filesystem", "df", "-b", img), -1) {
		used += m[1] + " " + m[2] + "\n"
	}
	if strings.Count(used, "\n") < 3 {
		t.Fatalf("what is in use cannot be read: %q", used)
	}
	return subvolumes, used
}

func orphans(t *testing.T, img string) int {
	t.Helper()
	return strings.Count(imgtool(t, "inspect-internal", "dump-tree", "-t", "root", img), " ORPHAN_ITEM ")
}

// TestReceiveKilled stops a receiving at moments chosen by its progress: the stream is held back behind a command, and
// when that has been carried out the process is killed, or interrupted. Killed, it leaves the last commit, in which nobody
// sees the subvolume, and the next writer drops it; interrupted it drops it itself, or keeps it if it was told to.
func TestReceiveKilled(t *testing.T) {
	dir := t.TempDir()
	fresh := filepath.Join(dir, "fresh")
	imgtool(t, "mkfs", "-q", "-b", "200M", fresh)
	parent := newTestStream(t, "p", 'P', 0).file("a").file("b").end()
	stream := filepath.Join(dir, "p")
	if err := os.WriteFile(stream, parent.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	imgtool(t, "receive", "-q", "-f", stream, fresh)
	for i, c := range killScenes(t) {
		for j, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGINT} {
			var flags []string
			if (i+j)%2 == 1 {
				flags = append(flags, "--keep-partial")
			}
			if (i+j)%3 == 1 {
				flags = append(flags, "-e")
			}
			t.Run(fmt.Sprintf("%s/%v%v", c.name, sig, flags), func(t *testing.T) {
				img := filepath.Join(t.TempDir(), "a.img")
				want := filepath.Join(t.TempDir(), "want.img")
				copyImage(t, fresh, img)
				c.before(t, fresh, want)
				killReceiving(t, &c, img, want, sig, flags)
			})
		}
	}
}

// before makes the image that one ought to have afterwards: fresh, with the subvolumes that were complete.
func (c *killScene) before(t *testing.T, fresh, want string) {
	t.Helper()
	copyImage(t, fresh, want)
	if len(c.complete) == 0 {
		return
	}
	s := newTestStream(t, "s", 'A', 0).file("a").end()
	cmd := exec.Command("imgtool", "receive", "-q", want)
	cmd.Stdin = bytes.NewReader(s.Bytes())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func copyImage(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "--sparse=always", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func killReceiving(t *testing.T, c *killScene, img, want string, sig syscall.Signal, flags []string) {
	keep := slices.Contains(flags, "--keep-partial")
	r := startReceiving(t, img, flags...)
	r.feed(c.stream[:c.starts[c.commands]], c.commands)
	ended, said := r.stop(sig)
	incomplete, onDisk := "s\n", 0
	if len(c.complete) > 0 {
		incomplete = "s2\n"
	}
	subvolumes, used := state(t, want)
	if sig == syscall.SIGKILL {
		if s := ended.Sys().(syscall.WaitStatus); s.Signal() != sig {
			t.Fatalf("not killed: %v, %s", ended, said)
		}
		if c.onDisk {
			onDisk = 1
		}
	} else {
		if ended.ExitCode() != exitCancelled || !strings.HasSuffix(said, "imgtool: cancelled; the image is at its last commit\n") {
			t.Errorf("%v, it said %q", ended, said)
		}
		if keep {
			subvolumes += incomplete
		}
	}
	checkImage(t, img)
	imgtool(t, "check", "-q", img)
	if n := orphans(t, img); n != onDisk {
		t.Errorf("%d dead subvolumes in the image, want %d", n, onDisk)
	}
	if got, _ := state(t, img); got != subvolumes {
		t.Errorf("subvolumes %q, want %q", got, subvolumes)
	}
	imgtool(t, "filesystem", "label", img, "opened") // the next writer
	if n := orphans(t, img); n != 0 {
		t.Errorf("%d dead subvolumes after it was opened for writing", n)
	}
	got, now := state(t, img)
	if got != subvolumes {
		t.Errorf("subvolumes after it was opened for writing %q, want %q", got, subvolumes)
	}
	kept := sig == syscall.SIGINT && keep
	if !kept && now != used {
		t.Errorf("in use:\n%swant:\n%s", now, used)
	}
	if kept {
		show := imgtool(t, "subvolume", "show", img, "/"+strings.TrimSpace(incomplete))
		if !regexp.MustCompile(`Received UUID: +\t+-\n`).MatchString(show) || strings.Contains(show, "readonly") {
			t.Errorf("kept:\n%s", show)
		}
	}
	checkImage(t, img)
	// The whole stream can be received now, unless its first subvolume is there already.
	if len(c.complete) == 0 && !kept {
		cmd := exec.Command("imgtool", "receive", "-q", img)
		cmd.Stdin = bytes.NewReader(c.stream)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("once more: %v: %s", err, out)
		}
	}
}
