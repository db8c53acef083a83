// Package txn is the transactions of one file system: who may change it, when, and how a commit moves it from one
// consistent state to the next.
//
// # States
//
//	            Start opens T
//	RUNNING ------------------> COMMIT_START -----------> COMMIT_DOING ------------> UNBLOCKED
//	  handles come and go         T-1 must be COMPLETED;    no handle is left;         commit roots are T's,
//	                              joins are let in,         pending ops, delayed       T+1 may start; T is
//	                              starts wait for T+1       refs, fixpoint, Switch     written out
//	                                                                                      |
//	            ABORTED <--- any failure, in any state            COMPLETED <--- SUPER_COMMITTED
//	              read-only, first cause kept                       pinned extents      the super of T is
//	                                                                are released        on all devices
//
// What a state allows is one table (states.go), tested as a table. A commit runs in a goroutine of its own and cannot
// be cancelled: a context only ends the waiting for it. Many handles share the running transaction, and a commit never
// stalls the writers of T+1 while T is written out.
//
// # Locks, outermost first
//
//	handle            not a lock; waiting for one while holding what follows is a bug (I11)
//	DB.mu             the states, the counts of handles, the list of pending ops; leaf for its holders: nothing of
//	                  the trees is touched under it
//	DB.treesMu        the map of trees and their root items
//	DB.commitRootMu   commit roots; written only in Switch, read-locked only in WithCommitRoots
//	tree blocks ...   see package btree
//
// # Roots
//
// Every tree but the root tree and the chunk tree is found through its ROOT_ITEM. The items of open trees are kept in
// memory (Root), changed there, and written by the fixpoint of the commit, which repeats until root items, block-group
// items, device items and delayed refs have nothing left to say. A block of T is changed in place in later passes, so
// the passes are few; their number is bounded, asserted and exported.
package txn
