// Package btree is one copy-on-write B-tree of a btrfs file system: search, copy-on-write, insert, delete, split, push,
// balance and iteration.
//
// # What a tree looks like
//
// Leaves hold items, a key and some bytes; nodes hold key pointers: the first key of a child, its address and its
// generation. Keys ascend; key i of a node is the first key of child i; all leaves are at level 0. No block is empty
// but the root leaf of an empty tree. [Tree.Check] verifies all of that.
//
// # Two trees in one
//
// A [Tree] has a current root, which the running transaction changes, and a commit root, which is what the last
// transaction left. A block is changed in place only if it was born in the running transaction and nobody else can
// have seen it (invariant I4); any other block is first copied to a new address, and so are all blocks above it.
// So the commit root stays whole, and can be read without locks ([CommitReader]) for as long as its blocks are not
// re-used, which is the business of package pin.
//
// Writing to the current tree needs a [Txn], the proof of a live handle. New blocks come from the [Allocator] and old
// ones go back to it; it also keeps the references that shared blocks hold (see cow.go for the rules).
//
// # Locks
//
// Every block has a reader-writer lock. They are taken parent before child; siblings of a locked block are only tried,
// under the write lock of their parent, and left alone if somebody is in there. Readers couple: they lock the child,
// then let the parent go. Writers do likewise but keep the ancestors that the change may reach: those whose key
// pointer to the path may have to change. Nodes on the way down are split when nearly full and merged when nearly
// empty, so that a change never travels up beyond them.
//
//	lock order here:  parent -> child;   trees: subvolume < root < csum < uuid < extent < free-space < dev < chunk
//	never held:       two locks of one block; a lock on return from any function but Cursor's
//	called under it:  Allocator, Config.OnDirty, the fn arguments of View, Scan, Update, Modify and DeleteRange
//
// What is called under a lock must not touch this tree, nor one before it in the order.
//
// # Errors
//
// An operation that fails has changed no item, unless its documentation says otherwise: blocks are read and allocated
// before anything is changed. It may have copied, split or merged blocks on its way, and the tree is whole. The one
// exception is a failure to record a reference (from Allocator.ModChildRefs, SetBlockFlags or DropTreeBlock), which
// matches [ErrInconsistent]; the transaction must then be aborted. Neighbours that cannot be read or copied are no
// error: they are just not merged with.
package btree
