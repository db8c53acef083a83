package check_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/engine/check"
	"imgtool/engine/internal/oracle"
)

// damage is one way to spoil an image, and the finding that tells of it. The first findings that follow from it may be
// others; that it is among them is what is tested.
type damage struct {
	want  check.ID
	name  string // where one id has several
	base  string // of baseImage
	spoil func(s *surgeon, b *base)
	opts  check.Options
}

func (d *damage) title() string {
	if d.name == "" {
		return string(d.want)
	}
	return string(d.want) + "/" + d.name
}

func allDamage() []damage {
	var all []damage
	for _, list := range [][]damage{superDamage, chunkDamage, blockDamage, itemDamage, rootDamage, extentDamage, spaceDamage, fileDamage, nameDamage} {
		all = append(all, list...)
	}
	return all
}

// TestDamage makes each damage and looks for its finding, asks `btrfs check` whether it agrees that the image is
// damaged, and checks that every kind of finding has been seen.
func TestDamage(t *testing.T) {
	progs := btrfsTool()
	if testing.Short() {
		progs = ""
	}
	seen := map[check.ID]bool{}
	for _, d := range allDamage() {
		seen[d.want] = true
		t.Run(d.title(), func(t *testing.T) {
			b := baseImage(t, d.base)
			d.spoil(newSurgeon(t, b.dev), b)
			rep := run(t, b.dev, d.opts)
			if !rep.Has(d.want) {
				t.Errorf("not found; instead:\n%s", lines(rep))
			}
			if progs != "" {
				agree(t, progs, &d, b, rep)
			}
		})
	}
	for _, k := range check.Kinds {
		if _, ok := unseen[k.ID]; ok == seen[k.ID] {
			t.Errorf("%s: has a case: %t, is excused: %t", k.ID, seen[k.ID], ok)
		}
	}
}

// unseen are the findings without a case here, with the reason.
var unseen = map[check.ID]string{
	check.SuperUnreadable: "TestUnreadable", check.DataUnreadable: "TestUnreadable",
}

// differs says why `btrfs check` sees a damage otherwise: it prints nothing where this checker reports an error, or
// complains where this one has none. All others agree.
var differs = map[string]string{
	"super-magic": oneCopy, "super-csum": oneCopy, "super-foreign": oneCopy, "super-bytenr": oneCopy, "super-differs": oneCopy,
	"super-sys-array":              "it takes the chunk tree's word",
	"super-sys-array/one too many": "it takes the chunk tree's word",
	"super-dev-item":               "it takes the chunk tree's word",
	"root-ref-no-entry/no tree":    "it looks for the references of trees that are there",
	"block-content":                "it does not look at the backref revision",
	"item-inode-ref":               lenient, "item-file-extent": lenient, "item-xattr": lenient, "item-root/ROOT_ITEM": lenient,
	"item-extent/EXTENT_ITEM": lenient, "item-free-space/FREE_SPACE_INFO": lenient, "item-device/DEV_EXTENT": lenient,
	"item-orphan": lenient, "item-uuid": lenient, "item-other": lenient,
	"root-refs":         "it only compares with zero",
	"default-subvol":    "it does not look at the name",
	"log-no-root":       "it does not read logs",
	"extent-generation": "it does not compare them",
	"symlink-target":    "it takes any length",
}

const (
	oneCopy = "it reads one superblock copy only"
	lenient = "it does not have the kernel's tree-checker"
)

// agree compares with btrfs check: both call the image damaged, or both do not.
func agree(t *testing.T, progs string, d *damage, b *base, rep *check.Report) {
	t.Helper()
	img := filepath.Join(t.TempDir(), "img")
	if err := b.dev.WriteFile(img); err != nil {
		t.Fatal(err)
	}
	args := []string{"check", "--readonly"}
	if d.opts.DataCsum {
		args = append(args, "--check-data-csum")
	}
	out, err := exec.Command(progs, append(args, img)...).CombinedOutput()
	theirs := err != nil || complains(string(out))
	reason := differs[d.title()]
	switch ours := !rep.Clean(); {
	case ours == theirs && reason != "":
		t.Errorf("btrfs check agrees, although the table says why it does not: %s", reason)
	case ours != theirs && reason == "":
		t.Errorf("damaged: here %t, by btrfs check %t\nhere:\n%s\nbtrfs check:\n%s", ours, theirs, lines(rep), out)
	}
}

// complains reports whether btrfs check has printed anything but its usual lines: many of its findings do not change its
// exit status.
func complains(out string) bool {
	for line := range strings.Lines(out) {
		usual := strings.TrimSpace(line) == ""
		for _, p := range []string{"[", "Opening filesystem", "Checking filesystem", "UUID:", "found ", "total ", "btree space waste", "file data blocks", " referenced "} {
			usual = usual || strings.HasPrefix(line, p)
		}
		if !usual {
			return true
		}
	}
	return !strings.Contains(out, "no error found")
}

func lines(rep *check.Report) string {
	var b strings.Builder
	for i := range rep.Findings {
		if i == 15 {
			b.WriteString("...\n")
			break
		}
		b.WriteString(rep.Findings[i].String() + "\n")
	}
	return b.String()
}

// btrfsTool is the path of btrfs, empty where it is missing and not required.
func btrfsTool() string {
	for _, name := range []string{"btrfs", "/usr/local/sbin/btrfs", "/usr/sbin/btrfs", "/sbin/btrfs"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if oracle.Required() {
		return "btrfs"
	}
	return ""
}
