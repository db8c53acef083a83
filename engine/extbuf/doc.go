// Package extbuf caches tree blocks. An extent buffer, [Buffer], is one block in memory with its lock and its reference
// count; a [Cache] holds those of one file system.
//
// # The identity rule (I3)
//
// There is at most one live buffer per logical address, as in the kernel (fs/btrfs/extent_io.c, alloc_extent_buffer).
// When an address is allocated again while a buffer of it is still alive, [Cache.Alloc] hands out that same buffer and
// re-initialises it in place. Whoever still held it from before sees it change under his eyes; that is the bug of Linux
// commit be6821f82c3c, which this engine is built to show, and the reason why readers of commit roots need a policy.
// SetIdentity(false) drops the rule: then the old buffer leaves the cache and stays with its readers.
//
// # The states of a buffer
//
//	dirty    new in generation T, in T's dirty set; never evicted. Its bytes may change, under its lock, until
//	         Written is set or T's roots are switched (I4).
//	clean    its bytes are what the disk holds; in the clock ring of its shard, evicted when nobody holds it.
//	orphan   left the map (forgotten by eviction, detach or Close), or never in it (Clone); ends with its last Release.
//
// The cache itself holds one reference on every buffer in its map; everybody else counts on top. A reference is given
// back exactly once (I12); Close lists what was not.
//
// # Locks
//
// Each Buffer has a RWMutex. Blocks of a tree that is being changed are read under RLock and written under Lock; blocks
// that only commit roots reach do not change (I4) and are read without. What the cache itself needs of a header, the
// generation, level, owner and the WRITTEN flag, stands in atomics beside the block, so that a hit is compared with the
// parent's pointer (I9) without the lock. The first key is compared in the block's bytes, without the lock too: nobody
// changes the first key of a block without the write lock of its parent, and who reads by a pointer holds the parent's
// lock, or a commit root.
//
// Order: Buffer lock, then dirty set, then cache shard; each held for a few instructions but the first. No I/O under
// the last two.
//
// # Reading ahead
//
// Prefetch reads in the background, neighbours in one read. Each block enters its flight before the read begins, as a
// reader's does: an allocation of the address meanwhile makes it stale, a reader who comes waits for it, and it is
// compared with what its pointer promises before it enters the map.
//
// # Write-out
//
// WriteOut copies each block into an aligned staging buffer, sets WRITTEN and the checksum there, and writes from there:
// no byte that a reader can see changes. Runs of adjacent blocks go out as one write.
package extbuf
