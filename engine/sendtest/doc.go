// Package sendtest holds the tests of send and receive as a whole: random pairs of snapshots that are sent and received
// in every direction. There is no code but in its tests; nothing imports it.
//
// # Pairs
//
// From a seed, generate (gen_test.go) makes a list of operations on a small tree that it keeps a model of (tree_test.go),
// with a snapshot "a" in the middle and a snapshot "b" at the end. Between the two stand the changes that make an
// incremental stream hard (scenes_test.go): chains and swaps of names, a directory moved under its former child, files
// that become directories, inode numbers that are used again, and so on. The list is plain text, so that a failure can
// be read and repeated, and it is valid as a whole: an operation that the file system refuses is a failure.
//
// A maker carries it out: kernelMaker below a mount, engineMaker through the engine's API.
//
// # What is shown
//
// TestOurs sends pairs: our streams against the kernel's, command for command (package samestream lists what may differ, and
// why), received by the kernel and by us. TestKernelToOurs receives what the kernel sends, and lets it go on from there.
// Manifests of what was received equal those of the sources, up to inode numbers (which names are links of one inode
// does count). Many pairs share an image and a mount, since those are what takes time.
//
// TestOdd does both with what random operations do not come to (oddscenes_test.go): set-id bits and capabilities, ACLs and
// properties of the top directory, extreme times, names and targets, subvolumes inside, inodes without names, and so on.
//
// IMGTOOL_SEED repeats a run, and IMGTOOL_SOAK=1 makes the numbers of pairs those of the project's claims.
package sendtest
