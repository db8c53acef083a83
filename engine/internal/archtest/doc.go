// Package archtest holds the architecture test: which package of this module may import which.
//
// It has no code of its own. The test reads the imports of every file that is not a test, compares the arrows with
// testdata/imports.txt, so that a new arrow is a line in the diff of a review, and checks that all of them point
// down the list of layers. After a wanted change:
//
//	go test ./engine/internal/archtest -update
package archtest
