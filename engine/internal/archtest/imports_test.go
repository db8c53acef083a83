package archtest

import (
	"flag"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/imports.txt anew")

const (
	module     = "imgtool"
	moduleRoot = "../../.."
	goldenFile = "testdata/imports.txt"
)

// layers is the list that imports point down, from the command line to the devices. Packages of one line do not
// import each other. A name stands for the packages below it too, which may import each other; engine alone does not.
var layers = [][]string{
	{"cmd/imgtool"},
	{"bench", "engine/e2e", "engine/crashsim", "engine/hostile", "engine/modeltest", "engine/sendtest"},
	{"engine"},
	{"engine/metrics"},
	{"engine/rescue"},
	{"engine/check", "engine/scrub"},
	{"engine/copytree", "engine/manifest"},
	{"engine/mkfs"},
	{"engine/send", "engine/receive"},
	{"engine/sendstream"},
	{"engine/subvol"},
	{"engine/inode"},
	{"engine/commitview"},
	{"engine/ordered"},
	{"engine/txn"},
	{"engine/extent"},
	{"engine/btree"},
	{"engine/extbuf"},
	{"engine/inspect"},
	{"engine/treecheck"},
	{"engine/volume"},
	{"freespace", "delayedref", "pin"},
	{"disk"},
	{"engine/ondisk"},
	{"engine/fserr"},
	{"engine/trace"},
}

// independent lists the packages whose worth lies in what they do not know, with all that they may import.
var independent = map[string][]string{
	// A second reading of the format: sharing the engine's trees would share their mistakes.
	"engine/check": {"engine/treecheck", "engine/volume", "disk", "engine/ondisk", "engine/fserr", "engine/trace"},
	// In-memory mechanisms, each tested alone against a naive model.
	"freespace":  {"engine/ondisk", "engine/fserr", "engine/trace"},
	"delayedref": {"engine/ondisk", "engine/fserr", "engine/trace"},
	"pin":        {"engine/ondisk", "engine/fserr", "engine/trace"},
	"disk":       {"engine/fserr", "engine/trace"},
	// The stream codec is a leaf.
	"engine/sendstream": {"engine/fserr"},
}

// testSupport is imported by tests only.
const testSupport = "engine/internal/"

// TestArrows compares with the golden file.
func TestArrows(t *testing.T) {
	var out strings.Builder
	graph := importGraph(t, moduleRoot)
	for _, from := range slices.Sorted(maps.Keys(graph)) {
		for _, to := range graph[from] {
			fmt.Fprintf(&out, "%s -> %s\n", from, to)
		}
	}
	if *update {
		if err := os.WriteFile(goldenFile, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	was, is := strings.Split(string(want), "\n"), strings.Split(out.String(), "\n")
	for _, arrow := range is {
		if !slices.Contains(was, arrow) {
			t.Errorf("new arrow: %s (if it is wanted: go test ./engine/internal/archtest -update)", arrow)
		}
	}
	for _, arrow := range was {
		if !slices.Contains(is, arrow) {
			t.Errorf("arrow is gone: %s (go test ./engine/internal/archtest -update)", arrow)
		}
	}
}

// TestLayers checks that the arrows point down.
func TestLayers(t *testing.T) {
	for from, tos := range importGraph(t, moduleRoot) {
		for _, fault := range faults(from, tos) {
			t.Error(fault)
		}
	}
}

// faults returns what is wrong with the imports of one package.
func faults(from string, tos []string) []string {
	var bad []string
	if strings.HasPrefix(from, testSupport) {
		return nil
	}
	fromLayer, fromName := layerOf(from)
	if fromLayer < 0 {
		return []string{fmt.Sprintf("%s has no place in the list of layers: give it one", from)}
	}
	allowed, limited := independent[from]
	for _, to := range tos {
		toLayer, toName := layerOf(to)
		switch {
		case strings.HasPrefix(to, testSupport):
			bad = append(bad, fmt.Sprintf("%s imports %s, which is for tests only", from, to))
		case toName == fromName && from != to:
			// two packages of one entry
		case toLayer <= fromLayer:
			bad = append(bad, fmt.Sprintf("%s imports %s, which is not below it", from, to))
		case limited && !slices.Contains(allowed, to):
			bad = append(bad, fmt.Sprintf("%s imports %s; it may import only %v", from, to, allowed))
		}
	}
	return bad
}

// layerOf returns the line of a package in the list and the entry that names it; -1 if none does.
func layerOf(pkg string) (int, string) {
	for i, line := range layers {
		for _, name := range line {
			if pkg == name || name != "engine" && strings.HasPrefix(pkg, name+"/") {
				return i, name
			}
		}
	}
	return -1, ""
}

// importGraph reads which packages of the module import which, relative to the module, each list sorted. It parses all
// files that are no tests, whatever their build constraints, rather than asking `go list`, so that the go command
// sees which files the test depends on and does not reuse a result from before a change.
func importGraph(t *testing.T, root string) map[string][]string {
	t.Helper()
	graph := make(map[string][]string)
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if p != root && (name == "testdata" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_")) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		rel, err := filepath.Rel(root, filepath.Dir(p))
		if err != nil {
			return err
		}
		pkg := filepath.ToSlash(rel)
		imports, err := fileImports(p)
		graph[pkg] = slices.Compact(slices.Sorted(slices.Values(append(graph[pkg], imports...))))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return graph
}

// fileImports returns what a file imports from this module.
func fileImports(file string) ([]string, error) {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		return nil, err
	}
	var own []string
	for _, spec := range f.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, err
		}
		if rest, ok := strings.CutPrefix(name, module+"/"); ok {
			own = append(own, path.Clean(rest))
		}
	}
	return own, nil
}

// TestFaults makes sure that the rules can fail.
func TestFaults(t *testing.T) {
	for _, c := range []struct {
		from, to string
		bad      bool
	}{
		{"cmd/imgtool", "engine", false},
		{"cmd/imgtool", "cmd/imgtool/size", false},
		{"engine/btree", "engine/extbuf", false},
		{"engine/extbuf", "engine/btree", true},
		{"engine/send", "engine/receive", true},
		{"engine", "bench/lab", true},
		{"engine/ondisk/internal/gen", "engine/ondisk", false},
		{"engine/ondisk/internal/gen", "engine/volume", true},
		{"engine/volume", "disk", false},
		{"disk", "engine/volume", true},
		{"pin", "engine/ondisk", false},
		{"pin", "disk", true},
		{"freespace", "pin", true},
		{"engine/check", "engine/btree", true},
		{"engine/check", "engine/treecheck", false},
		{"engine/btree", "engine/internal/oracle", true},
		{"engine/nowhere", "engine/ondisk", true},
		{"engine/btree", "engine/nowhere", true},
	} {
		if got := faults(c.from, []string{c.to}); (len(got) > 0) != c.bad {
			t.Errorf("%s -> %s: %v", c.from, c.to, got)
		}
	}
}

// TestGraphSeesArrows runs the reader over a small tree.
func TestGraphSeesArrows(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"a/a.go":          "package a\nimport (\n\"fmt\"\n\"imgtool/b\"\n)\n",
		"a/linux.go":      "//go:build never\n\npackage a\nimport \"imgtool/c\"\n",
		"a/a_test.go":     "package a\nimport \"imgtool/d\"\n",
		"a/testdata/x.go": "package x\nimport \"imgtool/e\"\n",
		"b/b.go":          "package b\n",
	} {
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got := importGraph(t, root)
	want := map[string][]string{"a": {"b", "c"}, "b": nil}
	if !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("got %v, want %v", got, want)
	}
}
