// Package delayedref keeps the reference changes of one transaction that the
// extent tree has not seen yet: merged, ordered by address, and countable.
//
// Every allocation of a block adds a reference and every copy-on-write drops
// one. Writing each into the extent tree at once would recurse (changing the
// extent tree allocates blocks of it) and would touch the same items again and
// again. So changes are queued here, one [Head] for each extent, and an [Applier]
// writes them in address order later: from time to time while the transaction
// runs, and until nothing is left at its commit (I7). The facts are those of the
// kernel's fs/btrfs/delayed-ref.c and extent-tree.c.
//
// # Counting
//
// Invariant I6: references on disk + pending RefMod == true references, for each
// extent at each instant. A change of +1 and one of -1 to the same reference
// (equal kind, root or parent, inode and offset) cancel out here and never reach
// the disk. A head that has nothing left to say is removed, unless it stands for
// an extent that is new in this transaction (MustInsert): somebody must still
// give its space back.
//
// # Life of a head
//
//	       Add, Drop, SetFlags             Run takes it            Apply returns nil
//	(none) -------------------->  queued  ------------->  applying ----------------> (none)
//	                               |  ^                      |
//	   nothing left to say, or     |  +----------------------+
//	   CancelNew: (none)  <--------+     Apply fails: queued again
//
// While a head is being applied it belongs to its runner. Changes to the same
// extent begin a new head, queued behind it; no runner takes that one before the
// first is done. How many references there are on disk is not known meanwhile,
// so [Set.Pending] reports the extent as busy: the caller lets go of its tree
// path, waits, and searches again.
//
// # Locks
//
// One mutex, held for a lookup and a merge (well below a microsecond) and never
// while an Applier runs. "Being applied" is the delayed-ref head lock of the lock
// order: it is held across tree operations of the extent tree, and so nobody
// waits for it while holding a tree block.
package delayedref
