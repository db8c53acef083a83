package sendstream

import (
	"errors"
	"fmt"
	"hash/crc32"
)

// ErrDamaged is matched by every error that is the stream's fault.
var ErrDamaged = errors.New("damaged send stream")

const (
	magic      = "btrfs-stream\x00"
	headerSize = len(magic) + 4
	cmdSize    = 4 + 2 + 4 // length of the attributes, number, checksum
	tlvSize    = 2 + 2     // type, length of the value

	// MaxVersion is the newest version of the protocol that is known here.
	MaxVersion = 3
	// MaxCommandV1 is the largest command of version 1 with its header, in bytes (BTRFS_SEND_BUF_SIZE_V1).
	MaxCommandV1 = 64 << 10
	// MaxCommand is the largest command of later versions that the Reader takes. The kernel's have at most 128 KiB of
	// data and 16 KiB beside it.
	MaxCommand = 1 << 20
	// MaxPath is the longest path, in bytes: PATH_MAX of Linux without the terminating NUL. The kernel sends no longer one,
	// and receivers refuse it.
	MaxPath = 4095
)

// Cmd numbers a command.
type Cmd uint16

// The commands (enum btrfs_send_cmd).
const (
	CmdSubvol Cmd = iota + 1
	CmdSnapshot
	CmdMkfile
	CmdMkdir
	CmdMknod
	CmdMkfifo
	CmdMksock
	CmdSymlink
	CmdRename
	CmdLink
	CmdUnlink
	CmdRmdir
	CmdSetXattr
	CmdRemoveXattr
	CmdWrite
	CmdClone
	CmdTruncate
	CmdChmod
	CmdChown
	CmdUtimes
	CmdEnd
	CmdUpdateExtent
	CmdFallocate // version 2
	CmdFileattr
	CmdEncodedWrite
	CmdEnableVerity // version 3
)

// AttrType numbers an attribute.
type AttrType uint16

// The attributes (enum in fs/btrfs/send.h), with the type of their values.
const (
	AttrUUID             AttrType = iota + 1 // 16 bytes
	AttrCTransID                             // uint64, as all without a remark
	AttrIno                                  //
	AttrSize                                 //
	AttrMode                                 //
	AttrUID                                  //
	AttrGID                                  //
	AttrRdev                                 // as stat(2) encodes devices
	AttrCTime                                // seconds and nanoseconds, 12 bytes
	AttrMTime                                //
	AttrATime                                //
	AttrOTime                                //
	AttrXattrName                            // string
	AttrXattrData                            // bytes
	AttrPath                                 // string
	AttrPathTo                               // string
	AttrPathLink                             // string
	AttrFileOffset                           //
	AttrData                                 // bytes
	AttrCloneUUID                            // 16 bytes
	AttrCloneCTransID                        //
	AttrClonePath                            // string
	AttrCloneOffset                          //
	AttrCloneLen                             //
	AttrFallocateMode                        // uint32
	AttrFileattr                             // inode flags of btrfs
	AttrUnencodedFileLen                     //
	AttrUnencodedLen                         //
	AttrUnencodedOffset                      //
	AttrCompression                          // uint32
	AttrEncryption                           // uint32
	AttrVerityAlgorithm                      // uint8
	AttrVerityBlockSize                      // uint32
	AttrVeritySalt                           // bytes
	AttrVeritySig                            // bytes
)

// Values of AttrCompression (BTRFS_ENCODED_IO_COMPRESSION_*). LZO is framed by sectors and has one for each size.
const (
	EncodedNone   = 0
	EncodedZlib   = 1
	EncodedZstd   = 2
	EncodedLZO4K  = 3
	EncodedLZO64K = 7
)

// cmdInfo is what is known of a command: its name, the version that brought it, and what it needs.
type cmdInfo struct {
	name    string
	version uint32
	needs   []AttrType
}

var commands = [...]cmdInfo{
	CmdSubvol:       {"subvol", 1, []AttrType{AttrPath, AttrUUID, AttrCTransID}},
	CmdSnapshot:     {"snapshot", 1, []AttrType{AttrPath, AttrUUID, AttrCTransID, AttrCloneUUID, AttrCloneCTransID}},
	CmdMkfile:       {"mkfile", 1, []AttrType{AttrPath}},
	CmdMkdir:        {"mkdir", 1, []AttrType{AttrPath}},
	CmdMknod:        {"mknod", 1, []AttrType{AttrPath, AttrMode, AttrRdev}},
	CmdMkfifo:       {"mkfifo", 1, []AttrType{AttrPath}},
	CmdMksock:       {"mksock", 1, []AttrType{AttrPath}},
	CmdSymlink:      {"symlink", 1, []AttrType{AttrPath, AttrPathLink}},
	CmdRename:       {"rename", 1, []AttrType{AttrPath, AttrPathTo}},
	CmdLink:         {"link", 1, []AttrType{AttrPath, AttrPathLink}},
	CmdUnlink:       {"unlink", 1, []AttrType{AttrPath}},
	CmdRmdir:        {"rmdir", 1, []AttrType{AttrPath}},
	CmdSetXattr:     {"set_xattr", 1, []AttrType{AttrPath, AttrXattrName, AttrXattrData}},
	CmdRemoveXattr:  {"remove_xattr", 1, []AttrType{AttrPath, AttrXattrName}},
	CmdWrite:        {"write", 1, []AttrType{AttrPath, AttrFileOffset, AttrData}},
	CmdClone:        {"clone", 1, []AttrType{AttrPath, AttrFileOffset, AttrCloneLen, AttrCloneUUID, AttrCloneCTransID, AttrClonePath, AttrCloneOffset}},
	CmdTruncate:     {"truncate", 1, []AttrType{AttrPath, AttrSize}},
	CmdChmod:        {"chmod", 1, []AttrType{AttrPath, AttrMode}},
	CmdChown:        {"chown", 1, []AttrType{AttrPath, AttrUID, AttrGID}},
	CmdUtimes:       {"utimes", 1, []AttrType{AttrPath, AttrATime, AttrMTime, AttrCTime}},
	CmdEnd:          {"end", 1, nil},
	CmdUpdateExtent: {"update_extent", 1, []AttrType{AttrPath, AttrFileOffset, AttrSize}},
	CmdFallocate:    {"fallocate", 2, []AttrType{AttrPath, AttrFallocateMode, AttrFileOffset, AttrSize}},
	CmdFileattr:     {"fileattr", 2, []AttrType{AttrPath, AttrFileattr}},
	CmdEncodedWrite: {"encoded_write", 2, []AttrType{AttrPath, AttrFileOffset, AttrUnencodedFileLen, AttrUnencodedLen, AttrUnencodedOffset, AttrData}},
	CmdEnableVerity: {"enable_verity", 3, []AttrType{AttrPath, AttrVerityAlgorithm, AttrVerityBlockSize, AttrVeritySalt, AttrVeritySig}},
}

// info returns what is known of a command, nil for an unknown one.
func (c Cmd) info() *cmdInfo {
	if int(c) >= len(commands) || commands[c].name == "" {
		return nil
	}
	return &commands[c]
}

// String is the name that `btrfs receive --dump` prints.
func (c Cmd) String() string {
	if in := c.info(); in != nil {
		return in.name
	}
	return fmt.Sprintf("command %d", uint16(c))
}

// attrInfo is an attribute's name, and its size in bytes or 0 for any.
type attrInfo struct {
	name string
	size int
}

var attributes = [...]attrInfo{
	AttrUUID: {"uuid", 16}, AttrCTransID: {"ctransid", 8}, AttrIno: {"ino", 8}, AttrSize: {"size", 8}, AttrMode: {"mode", 8},
	AttrUID: {"uid", 8}, AttrGID: {"gid", 8}, AttrRdev: {"rdev", 8}, AttrCTime: {"ctime", 12}, AttrMTime: {"mtime", 12},
	AttrATime: {"atime", 12}, AttrOTime: {"otime", 12}, AttrXattrName: {"xattr name", 0}, AttrXattrData: {"xattr data", 0},
	AttrPath: {"path", 0}, AttrPathTo: {"path to", 0}, AttrPathLink: {"path link", 0}, AttrFileOffset: {"file offset", 8},
	AttrData: {"data", 0}, AttrCloneUUID: {"clone uuid", 16}, AttrCloneCTransID: {"clone ctransid", 8}, AttrClonePath: {"clone path", 0},
	AttrCloneOffset: {"clone offset", 8}, AttrCloneLen: {"clone len", 8}, AttrFallocateMode: {"fallocate mode", 4},
	AttrFileattr: {"fileattr", 8}, AttrUnencodedFileLen: {"unencoded file len", 8}, AttrUnencodedLen: {"unencoded len", 8},
	AttrUnencodedOffset: {"unencoded offset", 8}, AttrCompression: {"compression", 4}, AttrEncryption: {"encryption", 4},
	AttrVerityAlgorithm: {"verity algorithm", 1}, AttrVerityBlockSize: {"verity block size", 4}, AttrVeritySalt: {"verity salt", 0},
	AttrVeritySig: {"verity signature", 0},
}

// info returns what is known of an attribute; the size of an unknown one is any.
func (a AttrType) info() attrInfo {
	if int(a) >= len(attributes) || attributes[a].name == "" {
		return attrInfo{name: fmt.Sprintf("attribute %d", uint16(a))}
	}
	return attributes[a]
}

// String is the attribute's name, for messages.
func (a AttrType) String() string { return a.info().name }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum continues a command's checksum, which starts from 0: crc32c without the two inversions that Go's has.
func checksum(crc uint32, b []byte) uint32 { return ^crc32.Update(^crc, castagnoli, b) }

// maxCommand is the bound of a command with its header.
func maxCommand(version uint32) int {
	if version == 1 {
		return MaxCommandV1
	}
	return MaxCommand
}
