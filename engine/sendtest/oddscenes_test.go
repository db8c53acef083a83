package sendtest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Inode flags as FS_IOC_SETFLAGS has them.
const (
	flagCompr     = 0x4
	flagImmutable = 0x10
	flagAppend    = 0x20
	flagNoCompr   = 0x400
	flagNoCow     = 0x800000
)

var capV2 = capability(1)

var oddScenes = []oddScene{
	{"privileges", func(o *odd) {
		for i, mode := range []uint32{0o4755, 0o2755, 0o6711, 0o1777, 0o4644, 0o2644} {
			p := fmt.Sprint("f", i)
			o.file(p, 5000)
			o.chmod(p, mode)
			p = fmt.Sprint("c", i)
			o.file(p, 5000)
			o.chmod(p, mode)
			o.xattr(p, "security.capability", capV2)
			p = fmt.Sprint("w", i)
			o.file(p, 5000)
			o.chmod(p, mode)
			o.xattr(p, "security.capability", capV2)
			p = fmt.Sprint("d", i)
			o.dirs(p)
			o.chmod(p, mode)
		}
	}, func(o *odd) {
		for i, mode := range []uint32{0o4755, 0o2755, 0o6711, 0o1777, 0o4644, 0o2644} {
			p := fmt.Sprint("f", i)
			o.chown(p, 10+i, 20+i)
			o.chmod(p, mode)
			p = fmt.Sprint("c", i)
			o.chown(p, 10+i, 20+i)
			o.chmod(p, mode)
			o.xattr(p, "security.capability", capV2)
			p = fmt.Sprint("w", i)
			o.write(p, 100, 9000, 5)
			o.chmod(p, mode)
			o.xattr(p, "security.capability", capV2)
			p = fmt.Sprint("d", i)
			o.chown(p, 10+i, 20+i)
			o.chmod(p, mode)
			o.file(p+"/x", 10)
			o.dirs(p + "/y")
		}
	}, false},
	{"times", func(o *odd) {
		for i, sec := range []int64{-1, -1 << 31, -1<<31 - 5, 1<<31 + 7, 1 << 34, 1<<35 + 9, 1 << 40, -1 << 40, 0} {
			p := fmt.Sprint("f", i)
			o.file(p, 10)
			o.times(p, unix.Timespec{Sec: sec, Nsec: 999999999}, unix.Timespec{Sec: sec + 1, Nsec: 1})
			p = fmt.Sprint("d", i)
			o.dirs(p)
			o.file(p+"/x", 1)
			o.times(p, unix.Timespec{Sec: sec, Nsec: 999999999}, unix.Timespec{Sec: sec + 1, Nsec: 1})
			p = fmt.Sprint("l", i)
			o.do(os.Symlink("x", o.p(p)))
			o.times(p, unix.Timespec{Sec: sec, Nsec: 999999999}, unix.Timespec{Sec: sec + 1, Nsec: 1})
		}
	}, func(o *odd) {
		for i := range 9 {
			sec := int64(-i) << 36
			o.times(fmt.Sprint("f", i), unix.Timespec{Sec: sec}, unix.Timespec{Sec: -sec, Nsec: 5})
			o.times(fmt.Sprint("d", i), unix.Timespec{Sec: sec}, unix.Timespec{Sec: -sec, Nsec: 5})
		}
	}, false},
	{"names", func(o *odd) {
		for _, n := range []string{"\xff\xfe", "a\nb", "\n", " ", "...", "..a", "-", "o257-7-0", "o258-8-0", "o260-9-0", "o261-10-1", "o", "a\\b", "\x01",
			strings.Repeat("\xf0\x9f\x98\x80", 63), strings.Repeat("z", 255), strings.Repeat("\xff", 255), "%s%n", "o18446744073709551615-1-0"} {
			o.file(n, 20)
			if len(n) < 250 {
				o.dirs(n + "D")
			}
		}
	}, func(o *odd) {
		for _, n := range []string{"\xff\xfe", "a\nb", "\n", " ", "...", "..a", "-", "o257-7-0", "o258-8-0", "o260-9-0", "o261-10-1", "o", "a\\b", "\x01"} {
			o.swap(n, n+"D")
			o.file(n+"/"+n+"x", 3)
		}
		o.mv(strings.Repeat("z", 255), strings.Repeat("y", 255))
		o.mv(strings.Repeat("\xff", 255), "o257-7-0/"+strings.Repeat("\xff", 255))
	}, false},
	{"xattrs", func(o *odd) {
		for i, n := range []int64{0, 1, 255, 3600, 2000, 1500} {
			p := fmt.Sprint("f", i)
			o.file(p, 10)
			o.xattr(p, "user.a", bytesOf(1, n))
			o.xattr(p, "user."+strings.Repeat("n", 250), bytesOf(3, min(n, 3400)))
			o.xattr(p, "trusted.overlay.opaque", []byte("y"))
			for j := range 40 {
				o.xattr(p, fmt.Sprint("user.many", j), bytesOf(5, int64(j*10)))
			}
		}
		o.dirs("d", "d/e")
		o.xattr("d", "system.posix_acl_default", posixACL(1))
		o.xattr("d", "system.posix_acl_access", posixACL(2))
		o.file("d/f", 10)
		o.dirs("d/g")
		o.file("d/g/h", 5000)
		o.do(os.Symlink("t", o.p("d/l")))
		o.xattr("d/l", "trusted.x", nil)
		o.xattr("d/l", "security.y", []byte{0})
		o.file("plain", 10)
	}, func(o *odd) {
		o.xattr("f0", "user.a", []byte("now"))
		o.xattr("f1", "user.a", nil)
		o.unxattr("f2", "user.a")
		o.unxattr("f3", "user."+strings.Repeat("n", 250))
		o.xattr("f4", "user.a", bytesOf(9, 1900))
		for j := range 40 {
			o.unxattr("f5", fmt.Sprint("user.many", j))
		}
		o.unxattr("d", "system.posix_acl_default")
		o.dirs("d/n")
		o.xattr("d/n", "system.posix_acl_default", posixACL(7))
		o.file("d/n/f", 10)
		o.mv("plain", "d/n/plain")
	}, false},
	{"acl of the top", func(o *odd) {
		o.file("first", 10)
		o.xattr(".", "system.posix_acl_default", posixACL(1))
		o.xattr(".", "user.top", []byte("x"))
		o.chmod(".", 0o2775)
		o.chown(".", 7, 8)
		o.file("f", 10)
		o.dirs("d")
		o.file("d/f", 6000)
	}, func(o *odd) {
		o.file("g", 10)
		o.dirs("h")
		o.xattr(".", "system.posix_acl_default", posixACL(5))
		o.file("d/k", 10)
		o.mv("first", "d/first")
	}, false},
	{"property of the top", func(o *odd) {
		o.file("first", 10)
		o.dirs("dir")
		o.xattr(".", "btrfs.compression", []byte("zstd"))
		o.file("f", 10)
		o.dirs("d")
		o.file("d/f", 6000)
		o.file("dir/f", 6000)
	}, func(o *odd) {
		o.file("g", 10)
		o.dirs("h")
		o.file("d/k", 10)
		o.file("dir/k", 10)
		o.mv("first", "d/first")
	}, false},
	{"targets", func(o *odd) {
		for _, n := range []int{1, 255, 2047, 2048, 2049, 3000, 3900} {
			o.do(os.Symlink(strings.Repeat("t", n), o.p(fmt.Sprint("l", n))))
		}
		for n := 4095; n > 3000; n-- {
			if os.Symlink(strings.Repeat("u", n), o.p("longest")) == nil {
				break
			}
		}
		for i, d := range []uint64{unix.Mkdev(4095, 1048575), unix.Mkdev(0, 0), unix.Mkdev(255, 256), unix.Mkdev(256, 255), unix.Mkdev(1, 1<<19)} {
			o.do(unix.Mknod(o.p(fmt.Sprint("c", i)), unix.S_IFCHR|0o600, int(d)))
			o.do(unix.Mknod(o.p(fmt.Sprint("b", i)), unix.S_IFBLK|0o6777, int(d)))
		}
		o.do(unix.Mkfifo(o.p("p"), 0o4640))
	}, func(o *odd) {
		o.rm("l1")
		o.do(os.Symlink("other", o.p("l1")))
		o.mv("longest", "longer")
		o.rm("c0")
		o.do(unix.Mknod(o.p("c0"), unix.S_IFBLK|0o600, int(unix.Mkdev(3, 4))))
		o.chown("p", 3, 4)
	}, false},
	{"sparse", func(o *odd) {
		for i := range 6 {
			p := fmt.Sprint("f", i)
			o.write(p, 0, 5000, 1)
			o.write(p, 1<<20+1, 7000, 3)
			o.write(p, 1<<23-100, 9000, 5)
			o.sync(p)
			o.truncate(p, 1<<24+1)
			if i > 2 {
				o.falloc(p, unix.FALLOC_FL_KEEP_SIZE, 1<<24, 1<<20)
			}
		}
		o.write("start", 1<<20, 1, 1)
		o.falloc("pre", 0, 0, 100001)
		o.write("pre", 5000, 20000, 7)
		o.falloc("beyond", unix.FALLOC_FL_KEEP_SIZE, 0, 300000)
		o.write("beyond", 0, 1000, 9)
		o.file("empty", 0)
		o.file("hole", 0)
		o.truncate("hole", 12345)
		o.falloc("keep", unix.FALLOC_FL_KEEP_SIZE, 4096, 8192)
	}, func(o *odd) {
		o.falloc("f0", unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 1, 1<<21)
		o.truncate("f1", 1<<23+1)
		o.truncate("f2", 4097)
		o.write("f3", 1<<24-5, 10, 11)
		o.falloc("f4", unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 1<<23-4096, 4096)
		o.truncate("f5", 1<<25)
		o.truncate("f5", 100)
		o.write("start", 0, 4096, 13)
		o.truncate("pre", 4999)
		o.truncate("pre", 200000)
		o.write("beyond", 299999, 2, 15)
		o.write("hole", 12000, 345, 17)
		o.write("keep", 0, 1, 19)
		o.truncate("keep", 4097)
		o.falloc("hole", unix.FALLOC_FL_ZERO_RANGE, 4096, 3000)
		o.falloc("pre", unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, 0, 1<<20)
	}, false},
	{"inline", func(o *odd) {
		for i, n := range []int64{1, 100, 2047, 2048, 2049, 3000, 4095, 4096, 4097} {
			for _, k := range []string{"a", "b", "c", "d", "e"} {
				p := fmt.Sprint(k, i)
				o.write(p, 0, n, 2)
				o.sync(p)
			}
			o.truncate(fmt.Sprint("b", i), n/2)
			o.truncate(fmt.Sprint("c", i), n+10)
			o.truncate(fmt.Sprint("d", i), 10000)
			o.falloc(fmt.Sprint("e", i), unix.FALLOC_FL_KEEP_SIZE, 0, 9000)
		}
	}, func(o *odd) {
		for i, n := range []int64{1, 100, 2047, 2048, 2049, 3000, 4095, 4096, 4097} {
			o.truncate(fmt.Sprint("a", i), n/2+1)
			o.truncate(fmt.Sprint("b", i), n)
			o.write(fmt.Sprint("c", i), n+5, 3, 4)
			o.write(fmt.Sprint("d", i), 9000, 100, 4)
			o.truncate(fmt.Sprint("e", i), 4200)
			o.truncate(fmt.Sprint("e", i), n)
		}
	}, false},
	{"links", func(o *odd) {
		o.file("f", 100)
		for d := range 5 {
			o.dirs(fmt.Sprint("d", d))
			for i := range 150 {
				o.ln("f", fmt.Sprintf("d%d/l%d", d, i))
			}
		}
		for i := range 200 {
			o.ln("f", fmt.Sprintf("d0/%s%d", strings.Repeat("n", 200), i))
		}
	}, func(o *odd) {
		for i := range 150 {
			o.mv(fmt.Sprintf("d1/l%d", i), fmt.Sprintf("d2/m%d", i))
			o.rm(fmt.Sprintf("d3/l%d", i))
		}
		for i := range 60 {
			o.rm(fmt.Sprintf("d0/%s%d", strings.Repeat("n", 200), i*3))
		}
		o.rm("d3")
		o.mv("d4", "d3")
		o.rm("f")
		o.file("f", 50)
		o.mv("d0", "d3/d0")
	}, false},
	{"flags", func(o *odd) {
		o.dirs("c", "n", "i")
		o.flags("c", flagCompr)
		o.flags("n", flagNoCow)
		o.file("c/f", 50000)
		o.file("n/f", 50000)
		o.dirs("c/d", "n/d")
		o.file("c/d/f", 50000)
		o.file("n/d/f", 50000)
		o.file("i/imm", 100)
		o.file("i/app", 100)
		o.file("nocompr", 10000)
		o.flags("nocompr", flagNoCompr)
		o.xattr("c/d", "btrfs.compression", []byte("zstd"))
		o.file("c/d/z", 50000)
		o.dirs("late")
		o.file("late/f", 10)
		o.flags("i/imm", flagImmutable)
		o.flags("i/app", flagAppend)
		o.flags("i", flagImmutable)
	}, func(o *odd) {
		o.flags("i", 0)
		o.flags("i/imm", 0)
		o.flags("i/app", 0)
		o.write("i/imm", 50, 100, 1)
		o.mv("i/app", "i/app2")
		o.file("i/new", 7)
		o.flags("i/new", flagImmutable)
		o.flags("i", flagAppend)
		o.write("n/f", 0, 30000, 3)
		o.write("c/f", 10000, 30000, 4)
		o.flags("late", flagNoCow)
		o.file("late/g", 9000)
	}, false},
	{"nested", func(o *odd) {
		o.dirs("d", "d/e")
		for _, s := range []string{"s1", "d/s2", "d/e/s3", "s4", "s5"} {
			o.m.KernelSubvolume(o.dir + "/" + s)
			o.file(s+"/f", 10)
		}
		o.file("f", 10)
	}, func(o *odd) {
		o.do(os.WriteFile(o.p("s1/g"), []byte("g"), 0o600))
		o.mv("d/s2", "moved")
		o.m.Btrfs("subvolume", "delete", o.p("d/e/s3"))
		o.dirs("d/e/s3")
		o.file("d/e/s3/f", 3)
		o.m.Btrfs("subvolume", "delete", o.p("s4"))
		o.file("s4", 10)
		o.mv("s5", "d/s5")
		o.m.KernelSubvolume(o.dir + "/d/e/s6")
		o.mv("d", "D")
		o.mv("f", "s5")
	}, true},
	{"rotations", func(o *odd) {
		for i := range 6 {
			path := ""
			for j := range 8 {
				path += fmt.Sprintf("r%d.%d", i, j)
				o.dirs(path)
				o.file(path+"/f", 10)
				path += "/"
			}
		}
	}, func(o *odd) {
		// Every directory goes somewhere else, below what was below it or elsewhere, under its name or another's.
		r := rand.New(rand.NewPCG(1, 2))
		var list []string
		for i := range 6 {
			for j := range 8 {
				list = append(list, fmt.Sprintf("r%d.%d", i, j))
			}
			for j := 7; j > 0; j-- { // flat, the deepest first
				path := ""
				for k := range j {
					path += fmt.Sprintf("r%d.%d/", i, k)
				}
				o.mv(path+fmt.Sprintf("r%d.%d", i, j), fmt.Sprintf("r%d.%d", i, j))
			}
		}
		r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		placed := []string{list[0]}
		for i, n := range list[1:] {
			to := placed[r.IntN(len(placed))] + "/" + n
			if i%7 == 0 {
				to = placed[r.IntN(len(placed))] + "/" + list[(i+5)%len(list)] // also another's name
			}
			if os.Rename(o.p(n), o.p(to)) == nil {
				placed = append(placed, to)
			}
		}
	}, false},
	{"orphans", func(o *odd) {
		o.dirs("d", "gone")
		for i := range 6 {
			o.file(fmt.Sprint("f", i), 5000)
			o.keep(os.OpenFile(o.p(fmt.Sprint("f", i)), os.O_RDWR, 0))
		}
		o.rm("f0")
		o.rm("f1")
		for range 4 { // never had a name
			fd, err := unix.Open(o.p("d"), unix.O_TMPFILE|unix.O_RDWR, 0o600)
			o.do(err)
			f := os.NewFile(uintptr(fd), "tmp")
			_, err = f.WriteAt(bytesOf(3, 6000), 0)
			o.do(err)
			o.keep(f, nil)
		}
		o.keep(os.Open(o.p("gone")))
	}, func(o *odd) {
		o.rm("f2")
		o.rm("f3")
		o.rm("gone")
		_, err := o.fds[0].WriteAt([]byte("orphan"), 100)
		o.do(err)
		_, err = o.fds[2].WriteAt([]byte("orphan"), 100)
		o.do(err)
		for i := 6; i < 9; i++ {
			o.do(unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", o.fds[i].Fd()), unix.AT_FDCWD, o.p(fmt.Sprint("d/t", i)), unix.AT_SYMLINK_FOLLOW))
		}
		o.xattr("d/t7", "user.x", []byte("y"))
		o.ln("d/t8", "t8")
		o.file("f2", 30)
		o.dirs("gone")
	}, false},
	{"shared", func(o *odd) {
		o.file("a", 200000)
		o.sync("a")
		o.clone("a", 0, 200000, "b", 0)
		o.clone("a", 65536, 65536, "a", 262144)
		o.clone("a", 4096, 4096, "c", 8192)
		o.clone("a", 0, 0, "c", 1<<20)
		o.file("tail", 10001)
		o.clone("tail", 0, 0, "tail2", 0)
		o.clone("tail", 4096, 0, "tail3", 0)
		for i := range 30 {
			o.clone("a", int64(i%16)*8192, 8192, "shuffled", int64((i*7)%30)*8192)
		}
	}, func(o *odd) {
		o.write("a", 70000, 100, 3)
		o.clone("b", 0, 131072, "a", 65536)
		o.clone("tail", 0, 0, "b", 200704)
		o.clone("a", 262144, 65536, "new", 0)
		o.clone("shuffled", 0, 65536, "shuffled", 262144)
		o.clone("tail2", 8192, 0, "e", 4096)
		o.clone("tail2", 8192, 0, "tail3", 61440)
		o.write("tail", 10001, 5, 3)
		o.rm("c")
		o.clone("a", 0, 4096, "c", 0)
		o.truncate("b", 150001)
		o.clone("b", 147456, 0, "g", 0)
	}, false},
	{"many", func(o *odd) {
		for d := range 9 {
			dir := fmt.Sprint("dir", d)
			o.dirs(dir)
			for i := range 70 {
				p := fmt.Sprintf("%s/f%d", dir, i)
				o.file(p, int64(i*i*7))
				switch i % 10 {
				case 0:
					o.xattr(p, "user.x", bytesOf(1, 200))
				case 1:
					o.ln(p, p+"l")
				case 2:
					o.do(os.Symlink("t", o.p(p+"s")))
				case 3:
					o.truncate(p, 300000)
				case 4:
					o.chown(p, 3, 4)
					o.chmod(p, 0o4711)
				case 5:
					o.dirs(p + "d")
					o.chmod(p+"d", 0o1700)
				}
			}
		}
		o.file("big", 9<<20+17)
	}, func(o *odd) {
		for d := range 9 {
			dir := fmt.Sprint("dir", d)
			for i := range 70 {
				p := fmt.Sprintf("%s/f%d", dir, i)
				switch (i + d) % 9 {
				case 0:
					o.rm(p)
				case 1:
					o.mv(p, fmt.Sprintf("dir%d/g%d.%d", (d*4)%9, d, i))
				case 2:
					o.write(p, 5000, 3000, 9)
				case 3:
					o.file(p+"new", 100)
				}
			}
		}
		o.mv("dir0", "dir1/dir0")
		o.mv("dir5", "dir0x")
		o.write("big", 5<<20+1, 3<<20, 8)
	}, false},
}
