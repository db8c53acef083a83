package oracle

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Message is one record of the kernel's log.
type Message struct {
	Level int // 0 emerg ... 3 err, 4 warning, 5 notice, 6 info, 7 debug
	Text  string
}

func (m Message) String() string { return fmt.Sprintf("<%d>%s", m.Level, m.Text) }

// levelWarning is the least severe level that a healthy file system never logs at.
const levelWarning = 4

// kmsg reads the kernel's log from the moment it was opened.
//
// Records are attributed to a mount by the loop device name in their text, for as long as the device is ours. That
// works because a device has one owner at a time, and is opened for reading before, and closed after, everything
// that the mount causes. Traces (WARN_ON, BUG_ON) name no device: they are reported to every mount of that moment,
// since each of them is a finding whoever caused it.
type kmsg struct {
	fd   int
	lost int // how often the kernel overwrote records before we read them
}

// openKmsg positions a reader behind the last record.
func openKmsg() (*kmsg, error) {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/kmsg", Err: err}
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		_ = unix.Close(fd) // the error that matters is the first
		return nil, &os.PathError{Op: "seek", Path: "/dev/kmsg", Err: err}
	}
	return &kmsg{fd: fd}, nil
}

func (k *kmsg) close() { _ = unix.Close(k.fd) }

// drain returns the records since the last call.
func (k *kmsg) drain() ([]Message, error) {
	var all []Message
	buf := make([]byte, 16<<10) // a shorter buffer than the record is EINVAL
	for {
		n, err := unix.Read(k.fd, buf)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return all, nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EPIPE): // overwritten; the next read goes on with the oldest record there is
			k.lost++
		case err != nil:
			return all, &os.PathError{Op: "read", Path: "/dev/kmsg", Err: err}
		default:
			m, err := parseKmsg(string(buf[:n]))
			if err != nil {
				return all, err
			}
			all = append(all, m)
		}
	}
}

// parseKmsg reads one record: "prio,seq,usec,flags[,...];text\n KEY=value\n..."
// (linux Documentation/ABI/testing/dev-kmsg). prio is facility*8 + level.
func parseKmsg(record string) (Message, error) {
	head, body, ok := strings.Cut(record, ";")
	prioText, _, ok2 := strings.Cut(head, ",")
	prio, err := strconv.Atoi(prioText)
	if !ok || !ok2 || err != nil {
		return Message{}, fmt.Errorf("/dev/kmsg: not a record: %q", record)
	}
	text, _, _ := strings.Cut(body, "\n")
	return Message{Level: prio & 7, Text: text}, nil
}

// traceText recognises the first line of what WARN_ON, BUG_ON, an assertion of btrfs, or a sanitizer print.
var traceText = regexp.MustCompile(`^(WARNING: |BUG: |kernel BUG at |INFO: task )|assertion failed`)

// ofSender recognises the warnings with which the kernel's send looks back on its own bookkeeping: at its end it finds
// directories that it meant to move or to remove and has not (fs/btrfs/send.c, btrfs_ioctl_send). They say nothing of
// what is on the device, whoever wrote it, and what is wrong with the stream is for those who compare it. As traces name
// no device, each would fail all tests that have something mounted.
var ofSender = regexp.MustCompile(`^WARNING: .*\bfs/btrfs/send\.c:\d+ (at )?btrfs_ioctl_send\+`)

// complaints filters what speaks against the file system on the named loop devices ("loop3").
func complaints(all []Message, loops []string) []Message {
	names := regexp.MustCompile(`\b(` + strings.Join(loops, "|") + `)\b`)
	var bad []Message
	for _, m := range all {
		trace := traceText.MatchString(m.Text) && strings.Contains(strings.ToLower(m.Text), "btrfs") && !ofSender.MatchString(m.Text)
		if m.Level <= levelWarning && (trace || names.MatchString(m.Text)) {
			bad = append(bad, m)
		}
	}
	return bad
}
