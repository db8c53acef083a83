// Package modeltest runs random operations of several clients against a file system and against a naive model of it, on
// a device that fails, in the manner of ztest.
//
// It is a package of tests; nothing imports it. A run is one image and several clients, each with a list of operations
// from the seed (ops_test.go). Each client alone changes its own subvolumes and snapshots, so what they hold is
// determined by what the client has done; the read-only ones are read by everybody. The model (model_test.go) says what
// each operation must end in and what must be read back: files and their data, directories, links, xattrs, renames,
// holes, preallocated and cloned ranges, open files without a name, subvolumes, snapshots, deletions; through the
// engine's own calls, through io/fs, and through views of commit roots (package commitview) while others commit. Read-only
// subvolumes are sent meanwhile, in full or against one another: a naive receiver (stream_test.go) makes of each stream
// what must equal the model, and some are received again, whole or broken off (execsend_test.go).
//
// # Sessions
//
// A run falls into sessions (config_test.go has what the seed chooses of each): the image is opened, its state is
// compared with the model, the device is given its fault, the clients work, and the session ends: with a commit, with a
// close without one, or with a crash, for which the writes since the last flush are lost in part (disk.Recorder). The
// faults are those of disk.Faults, EIO, short and torn writes, failing flushes and discards, latency, flipped bits on one
// copy, and rot of one copy between sessions. Small devices run out of space. After a fault of writing the file system
// must have turned read-only, with a first cause that stays and names the device.
//
// # What may be found after a session
//
// The image must be at the last generation that was durable, or at one whose superblock was being written (generations
// in session_test.go). For each generation the trace tells how many steps each client had finished when the commit
// started, and how many it had begun when the commit closed its transaction: the client's state in that generation is
// one of those between (window), and no older than a commit that has returned to somebody (ack). Then the checker looks
// at the image, after scrub has repaired what faults of one copy left behind, and the next session goes on from what was
// found.
//
// # Replay
//
// A failure prints its seed; IMGTOOL_SEED repeats it. From the seed come: the file system, the operations of each client,
// the sessions with their faults and endings, and what a crash loses of a given log. Not from the seed come the order in
// which clients side by side get at the file system, and with it who meets a fault that strikes the nth write, and whose
// request finds no space. Every third seed therefore runs in lockstep, one operation at a time in an order from the seed,
// and a failure is first looked for again in lockstep before it is cut down to the fewest operations (shrink_test.go).
// TestReplay shows that in lockstep and without faults every operation ends in the same way again.
//
// # That it can fail
//
// mutant_test.go breaks the file system: writes and flushes that are dropped, a snapshot that is lost, a byte that
// changes. Each must be found. device_test.go is the table of all faults of a device at each kind of its operations.
package modeltest
