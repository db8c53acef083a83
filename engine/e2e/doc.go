// Package e2e holds the tests of the whole engine on real images: what a finished image looks like to the kernel and
// to btrfs check after the hard cases. There is no code but in its tests.
package e2e
