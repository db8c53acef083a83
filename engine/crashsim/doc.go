// Package crashsim cuts the power of a file system thousands of times and looks at what is left.
//
// It is a package of tests; nothing imports it. From a seed it makes a workload (ops_test.go), runs it on a device in
// memory whose every write, flush and discard is recorded (run_test.go), and notes for each generation that was
// committed what the files were: a manifest with the hashes of all data, and a line for each subvolume with its flag, its
// place and its UUIDs. Then it builds the images that power cuts could have left (images_test.go) and looks at each
// (verify_test.go):
//
//   - it opens, read-only, and writes nothing while it is;
//   - its generation is the last one that was durable, or the one that was being made so;
//   - its manifest is that generation's, to the byte;
//   - the offline checker finds nothing;
//   - it opens for writing, going on with what the crash interrupted, takes a file, commits, and then the manifest is
//     still the same but for that file, nothing is left of what was being deleted or received, and the checker still
//     finds nothing.
//
// A sample also goes to `btrfs check` and to a mount by the kernel, whose manifest must be the same.
//
// # Which images
//
// The log of the device falls into windows between flushes. Whatever stands before a window is on the medium; of the
// window any subset may be, in any order, and of a write any of its 512-byte sectors (disk.Recorder.CrashImage, whose
// rules hold here). For each window there is the image that has nothing of it, which is the state right behind a
// flush, and images with subsets by seed, more of them the more the window holds. Inside a window the log is brought
// into one form (canonical), since the goroutines that write out have no order among themselves: so a seed gives the
// same images in each run. Only with a small bound on dirty blocks do commits begin at no certain place, and a receive
// that runs out of space ends at none, since it works behind its reading.
//
// # Overlap
//
// Transactions overlap: while T is written out, T+1 runs, and its file data goes to the device at once. Some commits of
// a workload therefore run operations in the middle of themselves, from the steps that the trace has there. That is
// where an extent which is free too early would be overwritten.
//
// # Sends and receives
//
// A read-only subvolume is sent while other operations and commits run in the sending goroutine's pauses (execsend_test.go):
// what is being sent must stay as it is. A stream, of the same image or of a second one, is received piece by piece, with
// other operations and a commit before each piece (execreceive_test.go), so that crashes fall in the middle of it: a
// subvolume of which a half has been committed is in no state, and is gone when the image has been opened for writing. One
// that is complete is read-only, has its received UUID, and holds what was sent. Some streams break off, and what they
// have brought goes, or is kept as a subvolume that does not pass for a received one.
//
// # When it fails
//
// The seed is printed, and the operations are cut down to the fewest that still fail (shrink_test.go). IMGTOOL_SEED
// runs one seed again; IMGTOOL_SOAK=1 runs 100,000 images over more than 50 seeds.
//
// # Mutants
//
// A simulation that never fails proves nothing until something broken has failed in it. mutant_test.go breaks the
// engine in the ways a commit can be broken: a flush that is left out, a super that is written before the blocks, an
// extent that may be re-used before the super is durable, a discard that comes after its range was given away again, a
// received subvolume that is visible before its data is there, or is not listed for deletion while it is incomplete. Each
// must be found within 1,000 images.
package crashsim
