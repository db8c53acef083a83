// Package hostile reads images that somebody has made to hurt whoever reads them.
//
// It is a package of tests; nothing imports it. Every command that only reads must come to an end on any image, with
// success or with an error of one line, in bounded time and memory (engine/docs/promises.md states the bounds). Here
// images are spoiled with their checksums mended, so that what lies behind the checksums is reached: by hand for what a
// clever enemy does (bounds_test.go), and by the fuzzer for what nobody has thought of (fuzz_test.go). The program itself
// is run on the former (program_test.go), so that what a user sees of them is looked at, too.
//
// Time is measured by work, so that a slow machine fails no test: the device counts what is read of it and what comes
// out of a command is counted, too.
package hostile
