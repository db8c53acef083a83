package main

import (
	"fmt"
	"sync/atomic"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"imgtool/engine/send"
)

// progressBar is the bar of a send: data done of the total, inodes beside it. Without a terminal it only keeps the
// figures for the line at the end.
type progressBar struct {
	a    *app
	name string
	bars *mpb.Progress
	bar  *mpb.Bar
	last atomic.Pointer[send.Progress]
}

func (a *app) sendProgress(name string) *progressBar {
	p := &progressBar{a: a, name: name}
	p.last.Store(&send.Progress{})
	if isTerminal(a.errOut) {
		inodes := decor.Any(func(decor.Statistics) string {
			l := p.last.Load()
			return fmt.Sprintf("inodes %d / %d ", l.Inodes, l.Inodes0)
		})
		p.bars = mpb.New(mpb.WithOutput(a.errOut), mpb.WithWidth(40))
		p.bar = p.bars.AddBar(0, mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(decor.Name(name+" "), inodes, decor.CountersKibiByte("% .1f / % .1f ")),
			mpb.AppendDecorators(decor.Percentage(), decor.AverageSpeed(decor.SizeB1024(0), " % .1f")))
	}
	return p
}

// update is told by the sending goroutine how far it is.
func (p *progressBar) update(s send.Progress) {
	p.last.Store(&s)
	if p.bar != nil {
		p.bar.SetTotal(int64(max(s.Data0, 1)), false)
		p.bar.SetCurrent(int64(min(s.Data, s.Data0)))
	}
}

// stop takes the bar away and leaves a line.
func (p *progressBar) stop() {
	if p.bar != nil {
		p.bar.Abort(true)
		p.bars.Wait()
	}
	l := p.last.Load()
	fmt.Fprintf(p.a.errOut, "%s: %d of %d inodes, %d of %d bytes of data\n", p.name, l.Inodes, l.Inodes0, l.Data, l.Data0)
}
