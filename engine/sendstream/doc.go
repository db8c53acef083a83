// Package sendstream is the codec of btrfs send streams: what `btrfs send` writes and `btrfs receive` reads.
//
// A stream is a magic, a version, and commands up to CmdEnd; another stream may follow. A command is its length, its
// number and a checksum, and then attributes, each with a type, a length and a value. All numbers are little-endian.
// The layout is that of fs/btrfs/send.h and Documentation "Send stream format"; versions differ so:
//
//	1  a command with its header is at most 64 KiB
//	2  the data attribute comes last and has no length: it goes to the command's end, and may be larger than 64 KiB;
//	   CmdFallocate, CmdFileattr, CmdEncodedWrite; AttrOtime
//	3  CmdEnableVerity
//
// The Reader trusts nothing: every length is bounded before memory is taken for it, the checksum comes first, then the
// attributes must fill the command exactly, be there if the command needs them, and have the size of their type. An
// attribute of an unknown type is kept and otherwise ignored, an unknown command is refused. Errors match ErrDamaged
// and tell the offset in the input.
//
// What a path may look like is not decided here but where it is walked.
package sendstream
