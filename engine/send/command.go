package send

import (
	"imgtool/engine/ondisk"
	"imgtool/engine/sendstream"
)

// The commands of a stream, each with its attributes in the order in which the kernel has them.

// begin starts a command on a path.
func (s *sender) begin(c sendstream.Cmd, path string) {
	s.enc.Begin(c)
	s.enc.String(sendstream.AttrPath, path)
}

// end completes the command; when the segment is large enough it is sent on.
func (s *sender) end() error {
	s.enc.End()
	return s.ended()
}

func (s *sender) ended() error {
	s.stats.Commands.Add(1)
	if err := s.enc.Err(); err != nil {
		return err
	}
	if len(s.enc.Buf) < segmentSize {
		return nil
	}
	return s.flush()
}

// flush sends the segment on and takes another one.
func (s *sender) flush() error {
	s.seg.buf = s.enc.Buf
	s.out.send(s.seg)
	s.seg = nil
	waited := false
	seg, err := s.out.take(func() {
		waited = true
		s.leave()
	})
	if err != nil {
		return err
	}
	s.seg, s.enc.Buf = seg, seg.buf
	if waited {
		return s.quiesce()
	}
	return nil
}

func (s *sender) sendRename(from, to string) error {
	s.begin(sendstream.CmdRename, from)
	s.enc.String(sendstream.AttrPathTo, to)
	return s.end()
}

func (s *sender) sendLink(path, target string) error {
	s.begin(sendstream.CmdLink, path)
	s.enc.String(sendstream.AttrPathLink, target)
	return s.end()
}

func (s *sender) sendUnlink(path string) error {
	s.begin(sendstream.CmdUnlink, path)
	return s.end()
}

func (s *sender) sendRmdir(path string) error {
	s.epoch++
	s.begin(sendstream.CmdRmdir, path)
	return s.end()
}

func (s *sender) sendTruncate(path string, size uint64) error {
	s.begin(sendstream.CmdTruncate, path)
	s.enc.Uint64(sendstream.AttrSize, size)
	return s.end()
}

func (s *sender) sendChown(path string, uid, gid uint32) error {
	s.begin(sendstream.CmdChown, path)
	s.enc.Uint64(sendstream.AttrUID, uint64(uid))
	s.enc.Uint64(sendstream.AttrGID, uint64(gid))
	return s.end()
}

func (s *sender) sendChmod(path string, mode uint32) error {
	s.begin(sendstream.CmdChmod, path)
	s.enc.Uint64(sendstream.AttrMode, uint64(mode&ondisk.ModePerm))
	return s.end()
}

func (s *sender) sendFileattr(path string, flags uint64) error {
	s.begin(sendstream.CmdFileattr, path)
	s.enc.Uint64(sendstream.AttrFileattr, flags)
	return s.end()
}

func (s *sender) sendTimes(path string, in *inodeInfo) error {
	s.begin(sendstream.CmdUtimes, path)
	s.enc.Bytes(sendstream.AttrATime, in.times[aTime:aTime+timeSize])
	s.enc.Bytes(sendstream.AttrMTime, in.times[mTime:mTime+timeSize])
	s.enc.Bytes(sendstream.AttrCTime, in.times[cTime:cTime+timeSize])
	if s.enc.Version() >= 2 {
		s.enc.Bytes(sendstream.AttrOTime, in.times[oTime:oTime+timeSize])
	}
	return s.end()
}

func (s *sender) sendSetXattr(path string, name, value []byte) error {
	s.begin(sendstream.CmdSetXattr, path)
	s.enc.Bytes(sendstream.AttrXattrName, name)
	s.enc.Bytes(sendstream.AttrXattrData, value)
	return s.end()
}

func (s *sender) sendRemoveXattr(path string, name []byte) error {
	s.begin(sendstream.CmdRemoveXattr, path)
	s.enc.Bytes(sendstream.AttrXattrName, name)
	return s.end()
}

func (s *sender) sendUpdateExtent(path string, off, n uint64) error {
	s.begin(sendstream.CmdUpdateExtent, path)
	s.enc.Uint64(sendstream.AttrFileOffset, off)
	s.enc.Uint64(sendstream.AttrSize, n)
	return s.end()
}

// punchHole is FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE.
const punchHole = 0x02 | 0x01

func (s *sender) sendPunchHole(path string, off, n uint64) error {
	s.begin(sendstream.CmdFallocate, path)
	s.enc.Uint32(sendstream.AttrFallocateMode, punchHole)
	s.enc.Uint64(sendstream.AttrFileOffset, off)
	s.enc.Uint64(sendstream.AttrSize, n)
	return s.end()
}

// beginWrite starts a write of n bytes and returns where in the segment they go; endWrite ends it.
func (s *sender) beginWrite(path string, off, n uint64) (at int) {
	s.begin(sendstream.CmdWrite, path)
	s.enc.Uint64(sendstream.AttrFileOffset, off)
	return s.enc.Data(int(n))
}

// endLater ends a command whose data comes later.
func (s *sender) endLater(f fill) error {
	f.cmd, _ = s.enc.Leave()
	s.seg.fills = append(s.seg.fills, f)
	return s.ended()
}

// sendSubvol begins the subvolume: what it is called, what it is, and what it is to be made from.
func (s *sender) sendSubvol(name string) error {
	c := sendstream.CmdSubvol
	if s.parent != nil {
		c = sendstream.CmdSnapshot
	}
	s.begin(c, name)
	s.identify(sendstream.AttrUUID, sendstream.AttrCTransID, s.send)
	if s.parent != nil {
		s.identify(sendstream.AttrCloneUUID, sendstream.AttrCloneCTransID, s.parent)
	}
	return s.end()
}

// identify adds by what a receiver knows a subvolume.
func (s *sender) identify(id, transid sendstream.AttrType, t *tree) {
	u := t.named()
	s.enc.Bytes(id, u[:])
	s.enc.Uint64(transid, uint64(t.item.CTransID()))
}

// sendCreate makes an inode under its temporary name.
func (s *sender) sendCreate(in *inodeInfo) error {
	var c sendstream.Cmd
	switch in.mode & ondisk.ModeFmt {
	case ondisk.ModeReg:
		c = sendstream.CmdMkfile
	case ondisk.ModeDir:
		c = sendstream.CmdMkdir
	case ondisk.ModeLnk:
		c = sendstream.CmdSymlink
	case ondisk.ModeChr, ondisk.ModeBlk:
		c = sendstream.CmdMknod
	case ondisk.ModeFifo:
		c = sendstream.CmdMkfifo
	case ondisk.ModeSock:
		c = sendstream.CmdMksock
	default:
		return s.send.corrupt(in.ino, "mode %o is of no type", in.mode)
	}
	var target []byte
	if c == sendstream.CmdSymlink {
		var err error
		if target, err = s.send.symlink(in.ino); err != nil {
			return err
		}
	}
	name, err := s.spareName(in.ino, in.gen)
	if err != nil {
		return err
	}
	if err := s.bareTop(); err != nil {
		return err
	}
	s.begin(c, name)
	s.enc.Uint64(sendstream.AttrIno, uint64(in.ino))
	switch c {
	case sendstream.CmdSymlink:
		s.enc.Bytes(sendstream.AttrPathLink, target)
	case sendstream.CmdMknod, sendstream.CmdMkfifo, sendstream.CmdMksock:
		s.enc.Uint64(sendstream.AttrRdev, statDev(in.rdev))
		s.enc.Uint64(sendstream.AttrMode, uint64(in.mode))
	}
	return s.end()
}

// statDev turns a device number as inodes hold it (12 bits of major above 20 of minor) into what stat(2) shows.
func statDev(rdev uint64) uint64 {
	major, minor := rdev>>20, rdev&(1<<20-1)
	return minor&0xff | major<<8 | (minor&^0xff)<<12
}
