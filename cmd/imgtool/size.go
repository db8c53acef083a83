package main

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
)

// size is a number of bytes, as a flag: "10G" as mkfs.btrfs takes it, base 1024; "10GiB" too.
type size uint64

// parseSize reads a number with an optional suffix.
func parseSize(s string) (size, error) {
	digits := strings.TrimRight(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
	suffix := strings.ToUpper(s[len(digits):])
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a size such as 4096, 64K or 10G", s)
	}
	shift := 0
	if unit := strings.TrimSuffix(strings.TrimSuffix(suffix, "B"), "I"); unit != "" {
		i := strings.Index("KMGTPE", unit)
		if len(unit) != 1 || i < 0 {
			return 0, fmt.Errorf("%q: unknown suffix %q, use K, M, G, T, P or E", s, s[len(digits):])
		}
		shift = 10 * (i + 1)
	} else if suffix != "" && suffix != "B" {
		return 0, fmt.Errorf("%q: unknown suffix %q, use K, M, G, T, P or E", s, s[len(digits):])
	}
	if bits.Len64(n)+shift > 63 {
		return 0, fmt.Errorf("%q is more than a file can have", s)
	}
	return size(n << shift), nil
}

// Set parses the flag's value.
func (s *size) Set(text string) (err error) {
	*s, err = parseSize(text)
	return err
}

// Type is what the help shows for the value.
func (s *size) Type() string { return "SIZE" }

// String is empty for the default, so that the help does not show one.
func (s *size) String() string {
	if *s == 0 {
		return ""
	}
	return humanize.IBytes(uint64(*s))
}

// ibytes prints a number of bytes as all text output does.
func ibytes(n uint64) string { return humanize.IBytes(n) }
