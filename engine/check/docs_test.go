package check_test

import (
	"flag"
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"imgtool/engine/check"
)

var update = flag.Bool("update", false, "write docs/findings.md anew")

const page = "../docs/findings.md"

// TestPage compares the page of findings with the table in the code.
func TestPage(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# What imgtool check finds

Each finding has an id that does not change, so scripts may rely on it. Errors are damage and give exit status 3;
warnings are oddities that the kernel mends or lives with, and an image with nothing else is clean. This page is made
from the table in ` + "`engine/check/kinds.go`" + ` (` + "`go test ./engine/check -run TestPage -update`" + `); each kind is made on
purpose and found again in ` + "`engine/check/damage_*_test.go`" + `.

| id | severity | what it means |
|---|---|---|
`)
	for _, k := range check.Kinds {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", k.ID, k.Severity, k.Means)
	}
	fmt.Fprint(&b, `
## Where btrfs check sees it otherwise

For every kind the test asks `+"`btrfs check`"+`, too. Both agree on whether the image is damaged, but for these, where it
prints nothing:

| damage | why |
|---|---|
`)
	for _, d := range allDamage() {
		if why := differs[d.title()]; why != "" {
			fmt.Fprintf(&b, "| `%s` | %s |\n", d.title(), why)
		}
	}
	if *update {
		if err := os.WriteFile(page, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != b.String() {
		t.Errorf("%s is not what the table says: go test ./engine/check -run TestPage -update", page)
	}
}

// TestKinds holds the table to its form.
func TestKinds(t *testing.T) {
	form := regexp.MustCompile(`^[a-z]+(-[a-z]+)+$`)
	seen := map[check.ID]bool{}
	for _, k := range check.Kinds {
		if !form.MatchString(string(k.ID)) || seen[k.ID] {
			t.Errorf("id %q: not in kebab case, or there twice", k.ID)
		}
		seen[k.ID] = true
		if k.Severity != check.Error && k.Severity != check.Warning {
			t.Errorf("%s: severity %q", k.ID, k.Severity)
		}
		if !strings.HasSuffix(k.Means, ".") || strings.Count(k.Means, ". ") > 0 {
			t.Errorf("%s: not one sentence: %q", k.ID, k.Means)
		}
	}
}

// TestSurgeon holds the tool that makes the damage to what it may know: the format and the map of chunks, not the
// engine. There are 60 kinds of damage at least.
func TestSurgeon(t *testing.T) {
	files, err := filepath.Glob("damage_*_test.go")
	if err != nil || len(files) < 3 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range append(files, "surgeon_test.go") {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			switch path, _ := strconv.Unquote(i.Path.Value); path {
			case "imgtool/disk", "imgtool/engine/check", "imgtool/engine/ondisk", "imgtool/engine/volume", "imgtool/engine/internal/oracle":
			default:
				if strings.HasPrefix(path, "imgtool/") {
					t.Errorf("%s imports %s", file, path)
				}
			}
		}
	}
	ids := map[check.ID]bool{}
	for _, d := range allDamage() {
		ids[d.want] = true
	}
	if t.Logf("%d kinds of damage, of %d findings", len(ids), len(check.Kinds)); len(ids) < 60 {
		t.Errorf("%d kinds of damage", len(ids))
	}
}
