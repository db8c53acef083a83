package main

import (
	"path/filepath"
	"strings"
)

// inside returns where below dir the file lies, with slashes, and "" when it does not lie there. An image that is being
// filled from the directory that holds it must not be copied into itself.
func inside(dir, file string) string {
	d, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return ""
	}
	f, err := filepath.EvalSymlinks(file)
	if err != nil {
		return ""
	}
	if d, err = filepath.Abs(d); err != nil {
		return ""
	}
	if f, err = filepath.Abs(f); err != nil {
		return ""
	}
	rel, err := filepath.Rel(d, f)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return ""
	}
	return filepath.ToSlash(rel)
}
