package oracle

import (
	"slices"
	"testing"
)

func TestParseKmsg(t *testing.T) {
	for _, c := range []struct {
		record string
		want   Message
		bad    bool
	}{
		{record: "6,353,550038595,-;BTRFS info (device loop0): x\n", want: Message{6, "BTRFS info (device loop0): x"}},
		{record: "12,1,2,-,caller=T1;a;b\n SUBSYSTEM=block\n", want: Message{4, "a;b"}},
		{record: "3,1,2,c;", want: Message{3, ""}},
		{record: "no semicolon", bad: true},
		{record: "x,1,2,-;text", bad: true},
		{record: ";", bad: true},
	} {
		got, err := parseKmsg(c.record)
		if (err != nil) != c.bad || got != c.want {
			t.Errorf("%q: %v, %v", c.record, got, err)
		}
	}
}

func TestComplaints(t *testing.T) {
	ours := []Message{
		{4, "BTRFS warning (device loop1): checksum verify failed on logical 1 mirror 1"},
		{2, "BTRFS critical (device loop1 state EA): corrupt leaf"},
		{3, "BTRFS: error (device loop12 state A) in btrfs_commit_transaction:2500: errno=-5"},
		{3, "I/O error, dev loop1, sector 8 op 0x1:(WRITE)"},
		{4, "WARNING: fs/btrfs/block-rsv.c:466 at btrfs_release_global_block_rsv+0xbe/0xf0, CPU#0: umount/123"},
		{4, "WARNING: CPU: 1 PID: 9 at fs/btrfs/inode.c:1 btrfs_x+0x1/0x2 [btrfs]"},
		{4, "WARNING: CPU: 1 PID: 9 at fs/btrfs/send.c:1 iterate_dir_item+0x1/0x2 [btrfs]"},
		{2, "kernel BUG at fs/btrfs/ctree.c:1234!"},
		{3, "assertion failed: ret != 1, in fs/btrfs/extent-tree.c:1"},
		{0, "BUG: KASAN: slab-use-after-free in btrfs_search_slot+0x1/0x2"},
	}
	others := []Message{
		{4, "BTRFS warning (device loop3): checksum verify failed"},
		{4, "BTRFS warning (device loop11): checksum verify failed"}, // "loop1" is only its beginning
		{6, "BTRFS info (device loop1): using crc32c"},
		{5, "BTRFS notice (device loop1): x"},
		{6, "loop1: detected capacity change from 0 to 409600"},
		{4, "WARNING: fs/ext4/inode.c:1 at ext4_x+0x1/0x2, CPU#0: cp/1"},
		{4, "WARNING: CPU: 0 PID: 18170 at fs/btrfs/send.c:8297 btrfs_ioctl_send+0x655/0x20f0"},
		{4, "WARNING: fs/btrfs/send.c:8297 at btrfs_ioctl_send+0x655/0x20f0, CPU#1: btrfs/1"},
		{4, "process '/bin/x' started with executable stack"},
	}
	got := complaints(slices.Concat(others, ours, others), []string{"loop1", "loop12"})
	if !slices.Equal(got, ours) {
		t.Errorf("got:\n%swant:\n%s", lines(got), lines(ours))
	}
}
