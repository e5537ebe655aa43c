package playground

import "sync"

// outcome is the end of a run: the first thing that ended it counts. The zero value is not usable; see newOutcome.
type outcome struct {
	once sync.Once
	done chan struct{}
	err  error
}

func newOutcome() *outcome { return &outcome{done: make(chan struct{})} }

// finish ends the run with err, nil when the end was asked for. Only the first call counts.
func (o *outcome) finish(err error) {
	o.once.Do(func() {
		o.err = err
		close(o.done)
	})
}

// watch ends the run when the process ends by itself.
func (o *outcome) watch(p *Process) {
	go func() {
		if err := p.Wait(); err != nil {
			o.finish(err)
		}
	}()
}

// Done is closed when a server ended by itself or Stop was called; Err says which.
func (o *outcome) Done() <-chan struct{} { return o.done }

// Err is, once Done is closed, the [*ExitError] of the server that ended first, or nil after Stop.
func (o *outcome) Err() error {
	select {
	case <-o.done:
		return o.err
	default:
		return nil
	}
}
