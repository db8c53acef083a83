package oracle

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// fakeTB records what a helper does to its test. Methods that it does not have panic (the embedded TB is nil).
type fakeTB struct {
	testing.TB
	mu       sync.Mutex
	failed   bool
	skipped  bool
	text     strings.Builder
	cleanups []func()
}

func (f *fakeTB) note(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fmt.Fprintf(&f.text, format+"\n", args...)
}

func (f *fakeTB) Helper()                    {}
func (f *fakeTB) Cleanup(fn func())          { f.cleanups = append(f.cleanups, fn) }
func (f *fakeTB) Logf(s string, args ...any) { f.note(s, args...) }
func (f *fakeTB) Errorf(s string, a ...any)  { f.note(s, a...); f.failed = true }
func (f *fakeTB) Fatalf(s string, a ...any)  { f.Errorf(s, a...); runtime.Goexit() }
func (f *fakeTB) Skip(a ...any)              { f.note("%s", fmt.Sprint(a...)); f.skipped = true; runtime.Goexit() }

// observe runs body as the testing package would run a test, cleanups included.
func observe(body func(t testing.TB)) *fakeTB {
	f := &fakeTB{}
	run := func(fn func()) {
		done := make(chan struct{})
		go func() {
			defer close(done) // reached by Goexit too
			fn()
		}()
		<-done
	}
	run(func() { body(f) })
	for i := len(f.cleanups) - 1; i >= 0; i-- {
		run(f.cleanups[i])
	}
	return f
}
