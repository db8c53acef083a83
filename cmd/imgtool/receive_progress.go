package main

import (
	"fmt"
	"io"
	"os"

	"imgtool/engine/metrics"
	"imgtool/engine/receive"
)

// receiveProgress is what --progress shows: on a terminal a bar of the stream's bytes with the rate, and a line at the
// end.
type receiveProgress struct {
	a     *app
	bar   *progress // nil without a terminal
	stats *receive.Stats
}

// receiveProgress begins it for a stream in; its size is known if it is a regular file. The result reads the stream.
func (a *app) receiveProgress(in io.Reader, stats *receive.Stats) (*receiveProgress, io.Reader) {
	p := &receiveProgress{a: a, bar: a.progress("receive", streamSize(in)), stats: stats}
	return p, p.bar.reader(in)
}

// streamSize is how much a stream has left, in bytes; 0 if nobody knows.
func streamSize(in io.Reader) uint64 {
	f, ok := in.(*os.File)
	if !ok {
		return 0
	}
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return 0
	}
	at, err := f.Seek(0, io.SeekCurrent) // standard input need not be at its beginning
	if err != nil || at > st.Size() {
		return 0
	}
	return uint64(st.Size() - at)
}

// messages is where lines go meanwhile: above the bar.
func (p *receiveProgress) messages() io.Writer {
	if p.bar == nil {
		return p.a.errOut
	}
	return p.bar.bars
}

// stop takes the bar away and leaves a line.
func (p *receiveProgress) stop() {
	p.bar.stop()
	s := p.stats
	fmt.Fprintf(p.a.errOut, "subvolumes received: %d; %d commands, %d bytes of data, %d clones\n",
		s.Subvolumes.Load(), s.Commands.Load(), s.Data.Load(), s.Clones.Load())
}

// receiveMetrics shows the figures of a receiving.
func (a *app) receiveMetrics(s *session, st *receive.Stats) {
	if a.metrics == nil {
		return
	}
	sb := s.Super()
	a.metrics.NewReceive(sb.FSID().String(), metrics.ReceiveFigures{Commands: st.Commands.Load, Bytes: st.Bytes.Load, Data: st.Data.Load,
		Clones: st.Clones.Load, Stored: st.Stored.Load, Unpacked: st.Unpacked.Load, Subvolumes: st.Subvolumes.Load, Errors: st.Errors.Load})
}
