package gpufit

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// What follows a Binding waits for the Bindings that were asked for before it was done, and for no others.
func TestBindingsReturnWhenThoseThatWaitedAreDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPosting()
		var posted, returned atomic.Int64
		const gang = 3 * maxBinding
		bind := func() {
			if err := p.do(t.Context(), func() error {
				time.Sleep(time.Millisecond)
				posted.Add(1)
				return nil
			}); err != nil {
				t.Error(err)
			}
			returned.Add(1)
		}
		for range gang {
			go bind()
		}
		time.Sleep(2*time.Millisecond + time.Microsecond)
		if posted.Load() != 2*maxBinding || returned.Load() != 0 {
			t.Errorf("%d of %d are posted and %d told, want %d and none", posted.Load(), gang, returned.Load(), 2*maxBinding)
		}
		time.Sleep(900 * time.Microsecond)
		go bind() // asked for when two thirds were done: only the last third waits for it
		time.Sleep(100 * time.Microsecond)
		if returned.Load() != 2*maxBinding {
			t.Errorf("%d are told, want those that were done before the last one came: %d", returned.Load(), 2*maxBinding)
		}
		synctest.Wait()
		time.Sleep(time.Millisecond)
		if returned.Load() != gang+1 || len(p.waiting) != 0 || len(p.slots) != 0 {
			t.Errorf("%d are told, %d wait, %d slots are taken", returned.Load(), len(p.waiting), len(p.slots))
		}
	})
}

func TestNoBindingWaitsForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPosting()
		stuck, release := context.WithCancel(t.Context())
		go func() { _ = p.do(t.Context(), func() error { <-stuck.Done(); return nil }) }()
		synctest.Wait()

		start := time.Now()
		if err := p.do(t.Context(), func() error { return nil }); err != nil || time.Since(start) != tellWithin {
			t.Errorf("%v after %v, want %v", err, time.Since(start), tellWithin)
		}
		failed := errors.New("failed")
		start = time.Now()
		if err := p.do(t.Context(), func() error { return failed }); !errors.Is(err, failed) || time.Since(start) != 0 {
			t.Errorf("%v after %v, want the failure at once", err, time.Since(start))
		}
		ended, end := context.WithCancel(t.Context())
		end()
		if err := p.do(ended, func() error { return nil }); err != nil && !errors.Is(err, errNotSent) || time.Since(start) != 0 {
			t.Errorf("%v after %v, want no wait when the cycle has ended", err, time.Since(start))
		}
		release()
		synctest.Wait()
		if len(p.waiting) != 0 {
			t.Errorf("%d wait for what is done", len(p.waiting))
		}
	})
}
