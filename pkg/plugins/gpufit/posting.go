package gpufit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// maxBinding is how many Bindings are posted at a time, in all profiles. An API server takes 100 requests on one HTTP/2
// connection, the client opens another one for more, and a gang of 512 then spent a quarter of both programs' time on TLS
// handshakes. From 16 to 64 at a time it is bound equally fast, and watches share the connection.
const maxBinding = 64

// tellWithin bounds how long a posted Binding waits for others, however many come.
const tellWithin = time.Second

var errNotSent = errors.New("not sent")

// posting has a bounded number of Bindings posted at a time, and lets each return when as many have been posted as had been asked
// for by then: what follows a Binding, the event Scheduled first of all, is one more write each and would compete with the
// Bindings that wait. The last member of a gang of 512 was bound a third earlier for it. In a steady stream nobody waits long,
// for few are under way at any time.
//
// Safe for concurrent use.
type posting struct {
	slots chan struct{}

	mu          sync.Mutex
	asked, done uint64 // Bindings ever
	waiting     []waitingBinding
}

// waitingBinding is told when as many Bindings are done. In posting.waiting they stand in the order of that.
type waitingBinding struct {
	until uint64
	told  chan struct{}
}

func newPosting() *posting { return &posting{slots: make(chan struct{}, maxBinding)} }

// do calls post when it is its turn. Its error wraps errNotSent when ctx ended before that.
func (p *posting) do(ctx context.Context, post func() error) error {
	p.mu.Lock()
	p.asked++
	p.mu.Unlock()
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		p.finish()
		return fmt.Errorf("%w: %w", errNotSent, ctx.Err())
	}
	err := post()
	<-p.slots
	others := p.finish()
	if err != nil {
		return err // whoever mends it is not kept waiting
	}
	select {
	case <-others:
	case <-time.After(tellWithin):
	case <-ctx.Done():
	}
	return nil
}

// finish counts a Binding as done. What it returns is closed when those that have been asked for are done too.
func (p *posting) finish() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done++
	own := waitingBinding{until: p.asked, told: make(chan struct{})}
	p.waiting = append(p.waiting, own)
	n := 0
	for n < len(p.waiting) && p.waiting[n].until <= p.done {
		close(p.waiting[n].told)
		n++
	}
	p.waiting = p.waiting[n:]
	return own.told
}
