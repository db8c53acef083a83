// Package commitview reads commit roots: the trees as the last commit left them, while the next one is being made.
//
// # The problem
//
// Blocks that only commit roots reach do not change (I4), so they are read without locks. But they may go away: a
// block dropped in T is free as soon as T is durable, and when its address is allocated again the cache hands out the
// same buffer (I3) and its new owner fills it in place. A reader who merely holds a reference then goes on in a block
// of another tree. That is the race of Linux commit be6821f82c3c; it needs nothing but a snapshot of the read-only
// subvolume that is being read, because taking one copies the root.
//
// # The policies
//
//	shared      a reference to the commit root and no protection. It reproduces the bug, so it needs
//	            Options.AllowUnsafe.
//	clone-root  a private copy of the root block, made while commit roots stand still. Enough for read-only subvolumes,
//	            where a snapshot replaces no block but the root (the fix of 2018). One block copied a search.
//	epoch       a ticket (package pin): what this reader can see is not released while it lives. Safe for every tree
//	            and against everything; nothing is copied, but space is held back.
//
// [Open] takes epoch for any tree that is not a read-only subvolume, whatever was asked for; [View.Policy] tells.
//
// # Why epoch is sound
//
// The last switched generation g, the commit root of the root tree and the ticket are taken under one hold of
// commitRootMu: Switch cannot come in between, so the root is g's, and g's blocks are released only after they have
// been dropped by a later transaction, whose Release looks at the tickets. Everything else of the view is found from
// that root.
//
// A ticket is refreshed at quiescent points ([View.Quiesce]), where the reader holds keys and copied fields only. When
// space is needed the reader may be asked to go earlier: the next block or data read then leaves and returns
// fserr.ErrViewExpired. [View.ScanOn] is a Scan that goes on from its last key with a new ticket.
//
// # The oracle
//
// Under every policy each block of the path is compared with the pointer that led to it: generation, level and first
// key, for the root what its root item says, and its owner. Once when the search has ended and once more when the path
// is let go. What does not match is counted by policy and traced (trace.Mismatch). Only shared may meet any: under the
// other two a mismatch is a bug of the engine, and the search returns it as an error rather than what it found.
//
// # Locks
//
//	View.mu      the view's capture and its users; leaf, nothing is called under it
//	commitRootMu read-locked by DB.WithCommitRoots around the taking of a root; never while View.mu is held
//
// No lock is held while blocks are read or while the functions given to View and Scan run.
package commitview
