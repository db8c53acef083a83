package main

import (
	"io"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// progress is a bar on the terminal; a nil one shows nothing.
type progress struct {
	bars  *mpb.Progress
	bar   *mpb.Bar
	total uint64 // 0 if it is not known
}

// progress starts a bar of bytes if standard error is a terminal and --quiet was not given; otherwise it returns nil.
func (a *app) progress(name string, total uint64) *progress {
	if a.quiet || !isTerminal(a.errOut) {
		return nil
	}
	p := &progress{bars: mpb.New(mpb.WithOutput(a.errOut), mpb.WithWidth(40)), total: total}
	speed := decor.AverageSpeed(decor.SizeB1024(0), " % .1f")
	if total == 0 {
		p.bar = p.bars.New(0, mpb.SpinnerStyle(), mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(decor.Name(name+" "), decor.CurrentKibiByte("% .1f ")), mpb.AppendDecorators(speed))
		return p
	}
	p.bar = p.bars.AddBar(int64(total), mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Name(name+" "), decor.CountersKibiByte("% .1f / % .1f ")),
		mpb.AppendDecorators(decor.Percentage(), speed))
	return p
}

// update sets how many bytes are done. Safe for concurrent use.
func (p *progress) update(done uint64) {
	if p == nil {
		return
	}
	if p.total != 0 {
		done = min(done, p.total)
	}
	p.bar.SetCurrent(int64(done))
}

// stop takes the bar away.
func (p *progress) stop() {
	if p == nil {
		return
	}
	p.bar.Abort(true)
	p.bars.Wait()
}

// reader counts what is read of in.
func (p *progress) reader(in io.Reader) io.Reader {
	if p == nil {
		return in
	}
	return &countingReader{in: in, p: p}
}

type countingReader struct {
	in   io.Reader
	p    *progress
	done uint64
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.in.Read(b)
	c.done += uint64(n)
	c.p.update(c.done)
	return n, err
}
