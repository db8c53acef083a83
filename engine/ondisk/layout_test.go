package ondisk

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestLayoutsMatchKernelHeader compiles a program that prints offsetof and sizeof of every structure in the table.
func TestLayoutsMatchKernelHeader(t *testing.T) {
	cc, err := exec.LookPath("cc")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("no C compiler in CI")
		}
		t.Skip("no C compiler")
	}
	var src, want strings.Builder
	src.WriteString("#include <stdio.h>\n#include <stddef.h>\n#include <linux/btrfs.h>\n#include <linux/btrfs_tree.h>\nint main(){\n")
	checked := 0
	for _, l := range Layouts {
		if l.C == "" {
			continue
		}
		for _, f := range l.Fields {
			fmt.Fprintf(&src, "printf(\"%s.%s %%zu\\n\", offsetof(struct %s, %s));\n", l.Name, f.Name, l.C, f.C)
			fmt.Fprintf(&want, "%s.%s %d\n", l.Name, f.Name, f.Off)
			checked++
		}
		fmt.Fprintf(&src, "printf(\"%s %%zu\\n\", sizeof(struct %s));\n", l.Name, l.C)
		fmt.Fprintf(&want, "%s %d\n", l.Name, l.Size)
	}
	src.WriteString("return 0;}\n")
	dir := t.TempDir()
	c, bin := filepath.Join(dir, "l.c"), filepath.Join(dir, "l")
	if err := os.WriteFile(c, []byte(src.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(cc, "-o", bin, c).CombinedOutput(); err != nil {
		t.Fatalf("cc: %v\n%s", err, out)
	}
	got, err := exec.Command(bin).Output()
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want.String() {
		t.Fatalf("layout differs from the kernel's header:\nheader:\n%s\ntable:\n%s", got, want.String())
	}
	if checked < 100 {
		t.Fatalf("only %d members compared", checked)
	}
}

// TestNoOverlap holds the structures that the header does not name to be packed without overlaps.
func TestNoOverlap(t *testing.T) {
	size := map[string]int{"uint8": 1, "ItemType": 1, "uint16": 2, "uint32": 4, "uint64": 8, "Logical": 8, "Physical": 8,
		"Generation": 8, "ObjectID": 8, "TreeID": 8, "Key": KeySize, "UUID": 16, "Timespec": TimespecSize}
	for _, l := range Layouts {
		size[l.Name] = l.Size
	}
	for _, l := range Layouts {
		end := 0
		for _, f := range l.Fields {
			n := size[f.Type]
			if strings.HasPrefix(f.Type, "[") {
				fmt.Sscanf(f.Type, "[%d]byte", &n)
			}
			if n == 0 || f.Off < end || f.Off+n > l.Size {
				t.Errorf("%s.%s at %d of %d bytes: overlaps or has no size", l.Name, f.Name, f.Off, n)
			}
			end = f.Off + n
		}
	}
}

// TestGeneratedIsCurrent fails when layout_gen.go was not made from Layouts as it stands.
func TestGeneratedIsCurrent(t *testing.T) {
	have, err := os.ReadFile("layout_gen.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range Layouts {
		for _, f := range l.Fields {
			if !strings.Contains(string(have), fmt.Sprintf("// %s reads %s at offset %d.\nfunc (p *%s) %s()", f.Name, f.C, f.Off, l.Name, f.Name)) {
				t.Errorf("%s.%s is not in layout_gen.go: run go generate", l.Name, f.Name)
			}
		}
	}
}
