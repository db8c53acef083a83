package treecheck

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"imgtool/engine/ondisk"
)

// unseeded are the messages that another test triggers, and the formats that only wrap a message.
var unseeded = map[string]string{
	"%s":                            "wraps",
	"chunk_start=%d, %s":            "wraps",
	"sys_chunk_array offset %d: %w": "wraps",
	"sys_chunk_array offset %d: %s": "wraps",
	"0x%x":                          "TestFeatures",
	"%w to %s: incompat feature %s; use btrfs-progs and the kernel for this image": "TestFeatures",
	"%w to %s: compat_ro feature %s; open the image read-only":                     "TestFeatures",
	"%w to %s: sector size %d, only %d is supported":                               "TestFeatures",
	"array is %d bytes long, at most %d fit":                                       "TestSysChunkArray",
	"short entry, have %d bytes expect at least %d":                                "TestSysChunkArray",
	"unexpected key %s": "TestSysChunkArray",
	"chunk item crosses the array's end, have %d boundary %d": "TestSysChunkArray",
	"invalid chunk type 0x%x, expect a SYSTEM chunk":          "TestSysChunkArray",
	"invalid block size, have %d expect %d":                   "TestBlockSize",
}

var verb = regexp.MustCompile(`%[0-9]*[a-z]`)

// TestEveryCheckHasADamage reads the messages out of the package's source and matches each with what the damage
// tables trigger, so that a check without a seeded fault fails here.
func TestEveryCheckHasADamage(t *testing.T) {
	var got []string
	for _, d := range allDamages() {
		if err := run(t, d); err != nil {
			got = append(got, err.Error())
		}
	}
	for _, d := range superDamages {
		sb := testSuper()
		d.edit(sb)
		if err := Super(sb); err != nil {
			got = append(got, err.Error())
		}
	}
	all := strings.Join(got, "\n")
	formats := messages(t)
	if len(formats) < 100 {
		t.Fatalf("only %d messages found in the source", len(formats))
	}
	for _, f := range formats {
		if _, ok := unseeded[f]; ok {
			continue
		}
		var parts []string
		for _, p := range verb.Split(f, -1) {
			parts = append(parts, regexp.QuoteMeta(strings.ReplaceAll(p, "%%", "%")))
		}
		if !regexp.MustCompile(strings.Join(parts, `[^\n]*`)).MatchString(all) {
			t.Errorf("no damage triggers %q", f)
		}
	}
}

// messages returns the format string of every finding, and what the functions that return a problem return.
func messages(t *testing.T) (out []string) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fileMessages(file)...)
	}
	return out
}

func fileMessages(file *ast.File) (out []string) {
	makers := map[string]bool{"errorf": true, "inof": true, "arrayErrorf": true, "Corruptf": true, "Sprintf": true, "Errorf": true}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			name := ""
			switch f := n.Fun.(type) {
			case *ast.SelectorExpr:
				name = f.Sel.Name
			case *ast.Ident:
				name = f.Name
			}
			if !makers[name] {
				return true
			}
			for _, a := range n.Args {
				if s, ok := text(a); ok && s != "block" && s != "super" && s != "chunk" {
					out = append(out, s)
					break
				}
			}
		case *ast.ReturnStmt:
			if len(n.Results) == 1 {
				if s, ok := text(n.Results[0]); ok && s != "" {
					out = append(out, s)
				}
			}
		}
		return true
	})
	return out
}

func text(e ast.Expr) (string, bool) {
	l, ok := e.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(l.Value)
	return s, err == nil
}

func TestBlockSize(t *testing.T) {
	for _, n := range []int{0, 100, 4095, 4097} {
		if err := Block(make(ondisk.Block, n), testContext()); err == nil || !strings.Contains(err.Error(), "invalid block size, have "+strconv.Itoa(n)+" expect 4096") {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}
