package accounts

import (
	"sync"
	"time"
)

const (
	// doubtFor is for how many ticks a clock that was set is not believed: it may be set back.
	doubtFor = 20
	// slewPart of a tick is how far a clock that is believed is followed in one.
	slewPart = 5
)

// clock tells the time in Unix seconds as the machine's clock did when it was started, and goes on from there as time passes,
// whatever is done to the machine's clock. When that stays off for long, it is followed slowly: a step of an hour charges nobody an hour, and
// closes nobody's account an hour early. Safe for concurrent use.
type clock struct {
	wall   func() time.Time     // the machine's
	passed func() time.Duration // one that nobody sets

	mu     sync.Mutex
	anchor time.Time // the time when passed was since
	since  time.Duration
	off    int // for how many ticks the machine's clock has been off
}

// start believes the machine's clock.
func (c *clock) start() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.anchor, c.since, c.off = c.wall().Round(0), c.passed(), 0
}

func (c *clock) now() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.time()
}

func (c *clock) time() int64 { return c.anchor.Add(c.passed() - c.since).Unix() }

// tick compares with the machine's clock; once in each tick of so many seconds.
func (c *clock) tick(seconds int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	off := c.wall().Unix() - c.time()
	if -1 <= off && off <= 1 {
		c.off = 0
		return
	}
	if c.off++; c.off > doubtFor {
		most := max(seconds/slewPart, 1)
		c.anchor = c.anchor.Add(time.Duration(min(max(off, -most), most)) * time.Second)
	}
}
