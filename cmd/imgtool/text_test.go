package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// TestReportIsOneLine: whatever errors are joined or quote, what is said of them is one line.
func TestReportIsOneLine(t *testing.T) {
	var said bytes.Buffer
	err := errors.Join(errors.New("one"), errors.New("two\nthree\n"))
	if status := newApp(t.Context(), nil, nil, &said).report(t.Context(), err); status != exitFailed || said.String() != "imgtool: one; two; three\n" {
		t.Errorf("status %d: %q", status, said.String())
	}
}

func TestModeString(t *testing.T) {
	for _, c := range []struct {
		mode uint32
		want string
	}{
		{0o100644, "-rw-r--r--"}, {0o040755, "drwxr-xr-x"}, {0o120777, "lrwxrwxrwx"}, {0o060660, "brw-rw----"},
		{0o020000, "c---------"}, {0o010400, "p" + "r--------"}, {0o140001, "s--------x"}, {0o104755, "-rwsr-xr-x"},
		{0o104644, "-rwSr--r--"}, {0o102755, "-rwxr-sr-x"}, {0o102745, "-rwxr-Sr-x"}, {0o041777, "drwxrwxrwt"},
		{0o041776, "drwxrwxrwT"}, {0o000644, "?rw-r--r--"}, {0o107777, "-rwsrwsrwt"},
	} {
		if got := modeString(c.mode); got != c.want {
			t.Errorf("modeString(%o) = %s, want %s", c.mode, got, c.want)
		}
	}
}

func TestQuoted(t *testing.T) {
	for in, want := range map[string]string{
		"plain name": "plain name", "a\nb": `a\nb`, "tab\t": `tab\t`, `back\slash`: `back\\slash`, "\x1b[31m": `\x1b[31m`,
		"grün": "grün", "\xff\xfe": "\xff\xfe", "\x7f": `\x7f`, "": "",
	} {
		if got := quoted(in); got != want {
			t.Errorf("quoted(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestParseSubvol(t *testing.T) {
	for _, c := range []struct {
		in   string
		want subvolFlag
		bad  string
	}{
		{in: "a", want: subvolFlag{path: "a"}}, {in: "./a//b/", want: subvolFlag{path: "a/b"}},
		{in: "rw:a", want: subvolFlag{path: "a"}}, {in: "ro:a", want: subvolFlag{path: "a", readonly: true}},
		{in: "default:a", want: subvolFlag{path: "a", isDefault: true}},
		{in: "default-ro:a", want: subvolFlag{path: "a", isDefault: true, readonly: true}},
		{in: "rw:a:b", want: subvolFlag{path: "a:b"}},
		{in: "a:b", bad: `"a" is not rw`}, {in: "", bad: "below --rootdir"}, {in: "ro:", bad: "below --rootdir"},
		{in: ".", bad: "below --rootdir"}, {in: "..", bad: "below --rootdir"}, {in: "a/../..", bad: "below --rootdir"},
		{in: "/a", bad: "below --rootdir"}, {in: "../a", bad: "below --rootdir"}, {in: "a/..", bad: "below --rootdir"},
	} {
		got, err := parseSubvol(c.in)
		if c.bad == "" && (err != nil || got != c.want) {
			t.Errorf("parseSubvol(%q) = %+v, %v; want %+v", c.in, got, err, c.want)
		}
		if c.bad != "" && (err == nil || !strings.Contains(err.Error(), c.bad)) {
			t.Errorf("parseSubvol(%q) = %+v, %v; want an error with %q", c.in, got, err, c.bad)
		}
	}
}

// FuzzQuoted: whatever a name holds, it stays on its line.
func FuzzQuoted(f *testing.F) {
	f.Add("a\nb\\")
	f.Fuzz(func(t *testing.T, name string) {
		if q := quoted(name); strings.ContainsAny(q, "\n\r\x1b\x00") || len(q) < len(name) {
			t.Errorf("quoted(%q) = %q", name, q)
		}
	})
}
