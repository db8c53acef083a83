package main

import (
	"strings"
	"testing"
)

func TestParseSize(t *testing.T) {
	for _, c := range []struct {
		in   string
		want uint64
		bad  string // part of the error
	}{
		{in: "0"}, {in: "4096", want: 4096}, {in: "16k", want: 16 << 10}, {in: "10G", want: 10 << 30}, {in: "10g", want: 10 << 30},
		{in: "10GiB", want: 10 << 30}, {in: "10GB", want: 10 << 30}, {in: "7b", want: 7}, {in: "1E", want: 1 << 60},
		{in: "3t", want: 3 << 40}, {in: "2P", want: 2 << 50}, {in: "1M", want: 1 << 20},
		{in: "7E", want: 7 << 60}, {in: "9223372036854775807", want: 1<<63 - 1},
		{in: "8E", bad: "more than a file"}, {in: "9223372036854775808", bad: "more than a file"},
		{in: "18446744073709551616", bad: "not a size"}, {in: "", bad: "not a size"}, {in: "G", bad: "not a size"},
		{in: "-1", bad: "not a size"}, {in: "1.5G", bad: "not a size"}, {in: "1 G", bad: "not a size"}, {in: "1Q", bad: "suffix"},
		{in: "1iB", bad: "suffix"}, {in: "1GG", bad: "suffix"}, {in: "0x10", bad: "not a size"},
	} {
		got, err := parseSize(c.in)
		if c.bad == "" && (err != nil || uint64(got) != c.want) {
			t.Errorf("parseSize(%q) = %d, %v; want %d", c.in, got, err, c.want)
		}
		if c.bad != "" && (err == nil || !strings.Contains(err.Error(), c.bad)) {
			t.Errorf("parseSize(%q) = %d, %v; want an error with %q", c.in, got, err, c.bad)
		}
	}
}
