// Package bench measures the engine and shows what its readers of commit roots are protected from.
//
// # The race, step by step
//
// RunRace replays, on a real image and through the engine's public calls, the race of Linux commit be6821f82c3c ("Btrfs:
// send, fix race with transaction commits that create snapshots"). Three actors:
//
//	CPU 1  searches the commit root of a read-only subvolume and stops once it has the root block, at address X
//	CPU 2  takes a snapshot of that subvolume and commits: the root is copied, X is dropped, and free once the commit
//	       is durable
//	CPU 3  goes on changing other subvolumes, committing as it goes, until the allocator has come round to X
//
// and then CPU 1 goes on. Nothing of this is in the engine: CPU 1 is stopped by a tracer in the step CommitRootAcquired,
// which the engine emits while it holds no lock, and X is what the allocator finds, for the space of a small image is
// used up and begun anew within some hundred blocks. Hand-offs between goroutines order all accesses, so the replay is
// deterministic and sound under the race detector although the engine's policy shared is not.
//
// # The cost
//
// RunSearch measures what one search costs under each policy. The other measurements of the project are Go benchmarks
// in this package, and peers.sh, which runs them side by side with btrfs-progs and the kernel.
package bench
