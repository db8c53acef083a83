// Package oracle lets tests ask those who know: the kernel's own btrfs on a loop device, and btrfs-progs.
//
// It is test support, imported by tests only. A test that writes an image ends with
//
//	oracle.Check(t, img)                  // btrfs check --check-data-csum
//	m := oracle.Mount(t, img)             // loop device and mount(8)
//	got := oracle.Manifest(t, m.Dir)      // what a user of the mount sees, one JSON object a line
//	m.Unmount()                           // fails the test if the kernel complained meanwhile
//
// Nothing here shares code with the engine, on purpose: Manifest is a second implementation of the format that
// `imgtool manifest` prints, written against system calls on a mounted directory.
//
// # Where the oracles are missing
//
// Every entry point calls Need or NeedRoot first. Where tools or privileges are missing the test is skipped, with
// a text that says what is missing. In CI (CI=true, or IMGTOOL_ORACLE=required anywhere) that is a failure
// instead: a suite that has silently stopped to ask the kernel proves nothing.
//
// # Machines shared with others
//
// Test packages run in parallel processes, and other software uses loop devices too. Devices are taken from
// /dev/loop-control, which adds new ones when all are busy, and are configured in one step, so that two takers
// cannot share one. Messages of the kernel are attributed by loop device name, read from the moment the device
// is ours; see kmsg.go. A test process that was killed leaves its mount behind; the next process that mounts
// finds it by its unlocked lock file and removes it (see sweep).
//
// The kernel identifies file systems by their UUID, also across images: tests that run in parallel and mount
// copies of one image must give the copies UUIDs of their own.
//
// # Environment
//
//	CI, IMGTOOL_ORACLE=required   missing oracles are failures
//	IMGTOOL_SEED                  seed of every randomised test (see Seed)
//	IMGTOOL_SOAK=1                long variants of tests (see Soak)
package oracle
