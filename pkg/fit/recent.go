package fit

import "maps"

// Recent counts the classes of the most recent requests. Not safe for concurrent use.
type Recent struct {
	window []Class // ring
	next   int
	counts map[Class]int64
	seen   int // requests ever
}

// NewRecent remembers so many requests, at least 1.
func NewRecent(window int) *Recent {
	return &Recent{window: make([]Class, 0, max(1, window)), counts: map[Class]int64{}}
}

// Observe counts one request, and forgets the oldest when the window is full. It reports whether the mix is worth
// computing anew: after 1, 2, 4, … requests while they are few, then each time an eighth of the window is new. Between
// times the mix stays, so that what was computed from it stays valid.
func (r *Recent) Observe(c Class) (refresh bool) {
	if len(r.window) < cap(r.window) {
		r.window = append(r.window, c)
	} else {
		old := r.window[r.next]
		if r.counts[old]--; r.counts[old] == 0 {
			delete(r.counts, old)
		}
		r.window[r.next] = c
		r.next = (r.next + 1) % len(r.window)
	}
	r.counts[c]++
	r.seen++
	step := max(1, cap(r.window)/8)
	if r.seen < step {
		return r.seen&(r.seen-1) == 0
	}
	return r.seen%step == 0
}

// Mix is the mix of the requests in the window.
func (r *Recent) Mix() Mix { return NewMix(r.counts) }

// Counts are how often each class stands in the window. The caller owns it.
func (r *Recent) Counts() map[Class]int64 { return maps.Clone(r.counts) }
