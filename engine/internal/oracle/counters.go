package oracle

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// errorCounters reads the kernel's error counters of the mounted devices, by device and kind of error.
//
// They back up the kernel's log, which is incomplete where it matters: btrfs limits messages about bad checksums to
// ten in five seconds for the whole machine, so a storm in one test hides the only message of another. The counters
// are never limited. They live on in the image, so it is their growth since the mount that counts.
func errorCounters(devices []*LoopDevice) map[string]int64 {
	counters := make(map[string]int64)
	for _, l := range devices {
		// /sys/fs/btrfs/UUID/devices/loop3 names the file system; devinfo is ordered by devid, not by name.
		members, _ := filepath.Glob("/sys/fs/btrfs/*/devices/" + l.Name())
		for _, member := range members {
			files, _ := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(member)), "devinfo/*/error_stats"))
			for _, file := range files {
				text, err := os.ReadFile(file)
				if err != nil {
					continue // kernels before 5.14 have no such file; the log is all there is then
				}
				id := filepath.Base(filepath.Dir(file))
				for line := range strings.Lines(string(text)) {
					name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
					if n, err := strconv.ParseInt(value, 10, 64); err == nil {
						counters[fmt.Sprintf("%s, devid %s): %s", devices[0].Name(), id, name)] = n
					}
				}
			}
		}
	}
	return counters
}

// grown puts counters that have grown into the form of messages.
func grown(before, after map[string]int64) []Message {
	var all []Message
	for name, n := range after {
		if n > before[name] {
			all = append(all, Message{Level: 3, Text: fmt.Sprintf("BTRFS error counter (device %s grew from %d to %d", name, before[name], n)})
		}
	}
	return all
}
