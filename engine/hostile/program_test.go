package hostile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
)

// programs are command lines of imgtool that only read; IMG stands for the image, OUT for a name that is free.
var programs = []string{
	"ls -R IMG", "ls -lR IMG", "check --check-data-csum IMG", "scrub IMG", "manifest IMG", "get -r IMG / OUT", "send -q -f OUT IMG /snap",
	"inspect-internal dump-tree IMG", "inspect-internal dump-super -a -f IMG", "filesystem df IMG", "filesystem usage IMG",
	"filesystem show IMG", "subvolume list IMG", "subvolume show IMG /snap", "subvolume get-default IMG", "stat IMG /below/beside",
	"cat IMG /sub/file1",
}

// maxResident bounds the memory of the program, in bytes.
const maxResident = 512 << 20

// program is imgtool, built for the test.
type program struct {
	path string
}

func buildProgram(t *testing.T) *program {
	t.Helper()
	p := &program{filepath.Join(t.TempDir(), "imgtool")}
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", p.path, "imgtool/cmd/imgtool").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return p
}

// highWater is the largest resident set of this process so far, in KiB. A child's rusage begins with it.
func highWater(t *testing.T) (kib int64) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err == nil {
		_, rest, _ := strings.Cut(string(status), "VmHWM:")
		_, err = fmt.Sscan(rest, &kib)
	}
	if err != nil {
		t.Fatal(err)
	}
	return kib
}

// limited takes so much output and no more. It embeds nothing: io.Copy would find other ways in.
type limited struct {
	kept  bytes.Buffer // the first MiB
	n     int
	zeros bool // nothing else has come
}

func (l *limited) Write(p []byte) (int, error) {
	if l.n += len(p); l.n > maxWrite {
		return 0, errBudget
	}
	l.zeros = l.zeros && len(bytes.Trim(p, "\x00")) == 0
	l.kept.Write(p[:min(len(p), max(0, 1<<20-l.kept.Len()))])
	return len(p), nil
}

// run runs a command line on an image and holds it to its promise: it comes to an end within bounds, with success or with
// one line that names the file. It returns what it printed, up to a MiB, and its exit status.
func (p *program) run(t *testing.T, line, img string) (out string, status int) {
	t.Helper()
	args := strings.Fields(line)
	for i, a := range args {
		switch a {
		case "IMG":
			args[i] = img
		case "OUT":
			args[i] = filepath.Join(t.TempDir(), "out")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // only so that a loop without any work ends, too
	defer cancel()
	stdout, stderr := limited{zeros: true}, limited{}
	cmd := exec.CommandContext(ctx, p.path, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	usage, _ := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	status = cmd.ProcessState.ExitCode()
	said := stderr.kept.String()
	lines := strings.Count(said, "\n")
	switch {
	case ctx.Err() != nil:
		t.Errorf("%s: did not come to an end", line)
	case strings.HasPrefix(line, "cat ") && stdout.zeros && stdout.n > maxWrite: // the hole that a file of 2^63-1 bytes is
	case errors.Is(err, errBudget) || stdout.n > maxWrite || stderr.n > maxWrite:
		t.Errorf("%s: wrote %d bytes", line, stdout.n+stderr.n)
	case usage != nil && usage.Maxrss<<10 > maxResident && usage.Maxrss > highWater(t):
		t.Errorf("%s: took %d KiB of memory", line, usage.Maxrss)
	case !slices.Contains([]int{0, 1, 3}, status) || strings.Contains(said, "panic") || strings.Contains(said, "goroutine "):
		t.Errorf("%s: exit status %d: %.2000s", line, status, said)
	case status == 0 && said != "":
		t.Errorf("%s: has succeeded and says %q", line, said)
	case status != 0 && (lines != 1 || !strings.HasPrefix(said, "imgtool: ") || !strings.HasSuffix(said, "\n")):
		t.Errorf("%s: exit status %d, and %d lines: %q", line, status, lines, said)
	case status != 0 && !strings.Contains(said, filepath.Base(img)):
		t.Errorf("%s: the error does not name the file: %q", line, said)
	case strings.ContainsFunc(said, func(r rune) bool { return r != '\n' && r < ' ' || r == 0x7f }):
		t.Errorf("%s: the error has control characters: %q", line, said)
	case strings.Contains(said, "internal:"):
		t.Errorf("%s: the image is blamed on the program: %s", line, said)
	}
	return stdout.kept.String(), status
}

// write puts the image into a file.
func (im *image) write(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hostile.img")
	if err := im.dev.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestProgram runs the program itself on each enemy: what it says is one line that names the file, and the status is one
// that the help knows. Every enemy meets a third of the command lines, and in the long form all of them.
func TestProgram(t *testing.T) {
	p := buildProgram(t)
	for i, e := range enemies {
		t.Run(e.name, func(t *testing.T) {
			im := newImage(t)
			e.spoil(t, im)
			img := im.write(t)
			for j, line := range programs {
				if !oracle.Soak() && (i+j)%3 != 0 {
					continue
				}
				_, status := p.run(t, line, img)
				for _, who := range e.notice {
					if strings.HasPrefix(line, who) && status != 3 {
						t.Errorf("%s has not noticed: exit status %d", line, status)
					}
				}
			}
		})
	}
}

// TestListing holds `ls -R` to its bound where directories loop, form a lattice of 2^40 paths, and where they are merely
// deep: each is listed once, and the second way in is damage.
func TestListing(t *testing.T) {
	p := buildProgram(t)
	for _, name := range []string{"a directory contains itself", "each directory has two names in the one above, 2^40 paths"} {
		i := slices.IndexFunc(enemies, func(e enemy) bool { return e.name == name })
		if i < 0 {
			t.Fatalf("nobody is called %q", name)
		}
		t.Run(name, func(t *testing.T) {
			im := newImage(t)
			enemies[i].spoil(t, im)
			img := im.write(t)
			for _, line := range []string{"ls -R IMG", "ls -lR IMG", "ls -R IMG /below/below /below"} {
				out, status := p.run(t, line, img)
				if lists := strings.Count("\n"+out, "\n/"); status != 3 || lists > 2*depth+3 {
					t.Errorf("%s: exit status %d, %d lists", line, status, lists)
				}
			}
		})
	}
	t.Run("a deep chain", func(t *testing.T) {
		const deep = 1000
		im := &image{dev: disk.NewMem("deep", 128<<20)}
		chain(t, im.dev, deep)
		out, status := p.run(t, "ls -R IMG", im.write(t))
		if lists := strings.Count("\n"+out, "\n/"); status != 0 || lists != deep+1 && len(out) < 1<<20 {
			t.Errorf("exit status %d, %d lists", status, lists)
		}
	})
}

// chain makes directories in one another, and nothing else.
func chain(t *testing.T, dev disk.Device, n int) {
	t.Helper()
	fs, err := engine.FormatDevice(t.Context(), keptOpen{dev}, engine.FormatOptions{Options: mkfs.Default(), Size: 128 << 20})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := fs.Subvolume(t.Context(), ondisk.FSTree)
	dir := inode.RootDir
	for i := 0; i < n && err == nil; i++ {
		dir, err = tree.Mkdir(t.Context(), dir, fmt.Sprint(i), inode.Attr{Mode: 0o755})
	}
	if err := errors.Join(err, fs.Commit(t.Context()), fs.Close()); err != nil {
		t.Fatal(err)
	}
}
