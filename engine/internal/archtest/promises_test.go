package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestPromises looks for the tests that the page of promises names: each row names one at least, and each is there. The
// page can be found from the README and from the index of the pages.
func TestPromises(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(moduleRoot, "engine/docs/promises.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`([a-z0-9/]+)` (Test[A-Za-z0-9_]+)")
	rows, inTable := 0, false
	for line := range strings.Lines(string(page)) {
		if strings.HasPrefix(line, "| promise |") {
			inTable = true
			continue
		}
		if inTable = inTable && strings.HasPrefix(line, "|"); !inTable || strings.HasPrefix(line, "|---") {
			continue
		}
		rows++
		cells := strings.Split(strings.TrimSpace(line), "|")
		held := named.FindAllStringSubmatch(cells[len(cells)-2], -1)
		if len(held) == 0 || len(held) != strings.Count(cells[len(cells)-2], "Test") {
			t.Errorf("not each test of this promise is named with its package: %s", line)
		}
		for _, h := range held {
			if !hasTest(t, h[1], h[2]) {
				t.Errorf("%s has no %s, which is to hold: %s", h[1], h[2], strings.TrimSpace(cells[1]))
			}
		}
	}
	if rows < 15 {
		t.Errorf("%d promises found: the page has another form", rows)
	}
	for file, link := range map[string]string{"README.md": "engine/docs/promises.md", "engine/docs/README.md": "promises.md"} {
		text, err := os.ReadFile(filepath.Join(moduleRoot, file))
		if err != nil || !strings.Contains(string(text), "("+link+")") {
			t.Errorf("%s does not lead to the page (%v)", file, err)
		}
	}
}

// hasTest reports whether a package has a test function of a name.
func hasTest(t *testing.T, pkg, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(moduleRoot, pkg, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\nfunc "+name+"(t *testing.T)") {
			return true
		}
	}
	return false
}
