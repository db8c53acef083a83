package receive_test

import (
	"fmt"
	"testing"

	"imgtool/engine/receive"
	"imgtool/engine/sendstream"
)

// TestForgottenPaths: a receiver that knows few directories by their paths, and forgets them now and then, does not find
// what a path has led to before.
func TestForgottenPaths(t *testing.T) {
	b := newBase(t)
	for n := 1; n < 12; n++ {
		back := receive.SetMaxDirs(n)
		t.Cleanup(back)
		g := newScript(t, 1).subvol("s")
		dir := func(path string) {
			g.path(sendstream.CmdMkdir, "temp").do(sendstream.CmdRename, attrPath, "temp", attrPathTo, path)
		}
		for _, d := range []string{"p", "q", "r", "v", "v/y", "v/y/z", "x", "x/y", "x/y/z"} {
			dir(d)
		}
		for i, d := range []string{"p", "q", "r", "x/y/z"} {
			g.path(sendstream.CmdMkfile, fmt.Sprint(d, "/", i)) // not at the top: each by itself
		}
		g.do(sendstream.CmdRename, attrPath, "x", attrPathTo, "w").do(sendstream.CmdRename, attrPath, "v", attrPathTo, "x")
		g.path(sendstream.CmdMkfile, "x/y/z/g").write("x/y/z/g", 0, "data").times("x/y/z").end()
		b.likePlain(t, g.out.Bytes())
		back()
	}
}
