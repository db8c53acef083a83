// Package pin knows which addresses may not be reused yet, and which readers
// are looking at them.
//
// Copy-on-write frees a block by writing its successor elsewhere; the old bytes
// stay meaningful for two kinds of onlooker. Until the transaction that freed
// it is durable, a crash returns to a super block that still reaches it: the
// extent is *pinned*. And a reader of commit roots under the `epoch` policy
// goes on walking the trees of the generation it entered at, however many
// transactions commit meanwhile: an extent such a reader can see is *held*.
// This is invariant I2.
//
// # Life of an extent
//
//	          Pin                Release(gen >= Died)            callback returns
//	in use  ------->  pinned  -------------------------> releasing ------------> forgotten
//	                     |      no reader in [Born, Died)   ^
//	                     |                                  |
//	                     +----------->  held  --------------+
//	                      a reader in      the last such reader leaves
//	                      [Born, Died)
//
// An extent is visible to views of the generations [Born, Died): Born is the
// transaction that wrote it, Died the one that dropped it. A [Ticket] stands for
// one reader's view of one generation.
//
// Going to *releasing* means that Options.Release is called, without pin's lock:
// the caller discards the range if it is to, then adds it to free space. Until
// that call has returned the range is still reported by [Set.Overlapping], so
// that a block group loaded in between does not take it for free before the
// caller's Add does.
//
// # Why entering is sound
//
// [Set.Enter] runs the caller's capture of the switched generation while the
// ticket is being registered, and the caller holds commitRootMu for reading
// around all of it. Release(T) comes after the Switch of T, which writes under
// that lock; so a ticket of a generation before T is registered before Release(T)
// looks, or was captured after T was switched. Registering after letting the
// lock go is the race of Linux commit be6821f82c3c once more; Stats.Late counts
// tickets that can only have come about in that way.
//
// # How leaving stays cheap
//
// A held extent is attached to one witness: the largest live generation below
// its Died, which is the last that can see it. Only when the last ticket of that
// generation leaves are its extents looked at again, and moved to the next
// witness (which can only be an older one) or released. This is the way in which
// ZFS's dead lists move between snapshots.
//
// # Locks
//
// One mutex, below the block group's and freespace's and above the buffer
// cache's. capture runs under it, and must neither block nor call the Set.
// Options.Release, Options.OnAsk and the functions given to Set.Unseen run
// without it.
package pin
