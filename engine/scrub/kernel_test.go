package scrub

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"imgtool/disk"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/ondisk"
	"imgtool/engine/treecheck"
	"imgtool/engine/volume"
)

func openFiles(t *testing.T, readOnly bool, imgs ...string) (*volume.Volume, func()) {
	t.Helper()
	var devs []disk.Device
	for _, img := range imgs {
		d, err := disk.Open(img, disk.Options{ReadOnly: readOnly})
		must(t, err)
		devs = append(devs, d)
	}
	vol, err := volume.Open(t.Context(), devs, volume.Options{CheckSuper: treecheck.Super})
	must(t, err)
	return vol, func() {
		for _, d := range devs {
			must(t, d.Close())
		}
	}
}

func scrubFiles(t *testing.T, repair bool, imgs ...string) (Report, []Finding) {
	t.Helper()
	vol, done := openFiles(t, !repair, imgs...)
	defer done()
	var fs []Finding
	r, err := Run(t.Context(), vol, Options{Repair: repair, Found: func(f Finding) { fs = append(fs, f) }})
	must(t, err)
	return r, fs
}

// kernelImage has files, a snapshot with changes after it, a compressed file and one without checksums.
func kernelImage(t *testing.T, imgs []string, args ...string) {
	t.Helper()
	oracle.MkfsMulti(t, imgs, 256<<20, args...)
	m := oracle.Mount(t, imgs[0], oracle.WithDevices(imgs[1:]...))
	m.KernelSubvolume("sub")
	for i := range 200 {
		data := make([]byte, i*37+i%7*3000)
		for j := range data {
			data[j] = byte(j * (i + 3) >> 3)
		}
		must(t, os.WriteFile(m.Path("sub", fmt.Sprintf("f%03d", i)), data, 0o644))
	}
	must(t, os.WriteFile(m.Path("nocow"), nil, 0o644))
	oracle.Run(t, "chattr", "+C", m.Path("nocow"))
	must(t, os.WriteFile(m.Path("nocow"), make([]byte, 64<<10), 0o644))
	m.KernelSnapshot("sub", "snap", true)
	for i := range 50 {
		must(t, os.Remove(m.Path("sub", fmt.Sprintf("f%03d", 3*i))))
	}
	m.Unmount()
}

var scrubCount = regexp.MustCompile(`(csum_errors|verify_errors|read_errors|super_errors|uncorrectable_errors): (\d+)`)

// kernelScrub is what the kernel finds, by its own names.
func kernelScrub(t *testing.T, img string) map[string]int {
	t.Helper()
	m := oracle.Mount(t, img, oracle.Opts("ro"), oracle.AllowComplaints())
	defer m.Unmount()
	out, _ := oracle.RunErr("btrfs", "scrub", "start", "-B", "-r", "-R", m.Dir) // it fails when it finds something
	found := map[string]int{}
	for _, c := range scrubCount.FindAllStringSubmatch(out, -1) {
		n, err := strconv.Atoi(c[2])
		must(t, err)
		found[c[1]] += n
	}
	if len(found) == 0 {
		t.Fatalf("btrfs scrub says %q", out)
	}
	return found
}

// TestKernel damages images of the kernel: what the kernel's scrub finds is found here, and what is repaired here is
// clean to it and to btrfs check.
func TestKernel(t *testing.T) {
	oracle.NeedRoot(t)
	dir := t.TempDir()
	img := filepath.Join(dir, "img")
	kernelImage(t, []string{img}, "-m", "dup", "-d", "dup", "-n", "4096")
	r, fs := scrubFiles(t, false, img)
	if bad, _ := r.Errors(); bad != 0 {
		t.Fatalf("a good image: %+v", fs)
	}
	if r.Unverified != 64<<10 {
		t.Errorf("%d bytes without checksums", r.Unverified)
	}

	// One copy of three tree blocks, two sectors of data of different copies.
	vol, done := openFiles(t, false, img)
	var addrs []ondisk.Logical
	sb := vol.Super()
	addrs = append(addrs, sb.Root(), sb.ChunkRoot())
	data := scrubbedData(t, vol)
	dev := vol.Devices()[0].Dev
	for i, a := range append(addrs, data, data+2*4096) {
		p, err := vol.Place(a, i%2)
		must(t, err)
		must(t, flip(t.Context(), dev, int64(p.Offset)+1000))
	}
	must(t, dev.Flush(t.Context()))
	done()

	r, fs = scrubFiles(t, false, img)
	if m, d := r.Counts[Metadata].Errors, r.Counts[Data].Errors; m != 2 || d != 2 {
		t.Errorf("%d in metadata, %d in data: %+v", m, d, fs)
	}
	if k := kernelScrub(t, img); k["csum_errors"]+k["verify_errors"] != 4 || k["read_errors"]+k["super_errors"] != 0 {
		t.Errorf("the kernel finds %v", k)
	}
	r, fs = scrubFiles(t, true, img)
	if bad, repaired := r.Errors(); bad != 4 || repaired != 4 {
		t.Errorf("%+v", fs)
	}
	if k := kernelScrub(t, img); k["csum_errors"]+k["verify_errors"]+k["read_errors"]+k["super_errors"] != 0 {
		t.Errorf("after the repair the kernel finds %v", k)
	}
	oracle.Check(t, img)
}

// scrubbedData is the first address with a checksum.
func scrubbedData(t *testing.T, vol *volume.Volume) ondisk.Logical {
	t.Helper()
	sb := vol.Super()
	s := &scrubber{vol: vol, sb: &sb, check: treecheck.FromSuper(&sb), pool: disk.NewPool(), seen: map[ondisk.Logical]*want{}, o: Options{Depth: 2}}
	must(t, s.run(t.Context()))
	must(t, s.pool.Close())
	return ondisk.Logical(s.csums[0].first.Offset)
}

// TestProfiles repairs what only the engine's reading knows: mirrors over several devices.
func TestProfiles(t *testing.T) {
	oracle.NeedRoot(t)
	for _, profile := range []string{"raid1", "raid10", "raid1c3"} {
		t.Run(profile, func(t *testing.T) {
			dir := t.TempDir()
			var imgs []string
			for i := range 4 {
				imgs = append(imgs, filepath.Join(dir, fmt.Sprint(i)))
			}
			kernelImage(t, imgs, "-m", profile, "-d", profile)
			vol, done := openFiles(t, false, imgs...)
			data := scrubbedData(t, vol)
			sb := vol.Super()
			for i, a := range []ondisk.Logical{sb.Root(), data, data + 4096} {
				p, err := vol.Place(a, i%2)
				must(t, err)
				must(t, flip(t.Context(), p.Dev, int64(p.Offset)+77))
			}
			done()
			r, fs := scrubFiles(t, true, imgs...)
			if bad, repaired := r.Errors(); bad != 3 || repaired != 3 {
				t.Errorf("%+v", fs)
			}
			if r, fs = scrubFiles(t, false, imgs...); r.Counts[Metadata].Errors+r.Counts[Data].Errors != 0 {
				t.Errorf("%+v", fs)
			}
			oracle.Check(t, imgs...)
		})
	}
}

// TestLog scrubs an image as a crash leaves it after an fsync: its log belongs to it.
func TestLog(t *testing.T) {
	oracle.NeedRoot(t)
	dir := t.TempDir()
	live, img := filepath.Join(dir, "live"), filepath.Join(dir, "img")
	oracle.Mkfs(t, live, 256<<20)
	m := oracle.Mount(t, live, oracle.Opts("commit=300"))
	must(t, os.WriteFile(m.Path("committed"), []byte("c"), 0o644))
	m.KernelSync()
	f, err := os.Create(m.Path("fsynced"))
	must(t, err)
	m.Fsynced(img, func() {
		_, err := f.Write(make([]byte, 10000))
		must(t, errors.Join(err, f.Sync()))
	})
	must(t, f.Close())
	m.Unmount()

	r, fs := scrubFiles(t, false, img)
	if bad, _ := r.Errors(); bad != 0 {
		t.Errorf("a good image with a log: %+v", fs)
	}
	vol, done := openFiles(t, false, img)
	_, err = Run(t.Context(), vol, Options{}) // maps the chunks
	must(t, err)
	sb := vol.Super()
	p, err := vol.Place(sb.LogRoot(), 1)
	must(t, err)
	must(t, flip(t.Context(), p.Dev, int64(p.Offset)+500))
	done()
	r, fs = scrubFiles(t, true, img)
	if bad, repaired := r.Errors(); bad != 1 || repaired != 1 || fs[0].Tree != ondisk.TreeLogTree {
		t.Errorf("a bad block of the log: %+v", fs)
	}
}
