package gang

import (
	"sync"
	"time"

	"weft.sh/weft/pkg/gang"
)

// looks spaces the looks at large gangs out. An event of one member is a reason to look at the gang as a whole; when all members
// of a large one are created, bound or started they come by the hundred, and a look at all members for each would take longer
// the larger the gang is, squared. The first event is looked at when it comes. Those that come soon after it are looked at
// together.
type looks struct {
	mu sync.Mutex
	// busy are the gangs that are being looked at or were a moment ago, and whether anything has come since that look began.
	busy map[gang.Key]bool
}

const (
	// lookAtOnce is up to how many members a gang may have to be looked at again at once.
	lookAtOnce = 64
	// lookPause is, for each member, how long no other look is taken after one. A look takes about a fiftieth of that: for a gang
	// of 512 members, 0.2 of 10 ms.
	lookPause = 20 * time.Microsecond
)

// at has the gang looked at after this moment: now, unless that is being done or was a moment ago. look returns how many members
// the gang has; it is not called for one gang by two goroutines at a time.
func (l *looks) at(k gang.Key, look func(gang.Key) int) {
	l.mu.Lock()
	_, busy := l.busy[k]
	if l.busy == nil {
		l.busy = map[gang.Key]bool{}
	}
	l.busy[k] = busy
	l.mu.Unlock()
	if !busy {
		l.run(k, look)
	}
}

// run looks for as long as there is reason to.
func (l *looks) run(k gang.Key, look func(gang.Key) int) {
	for {
		if members := look(k); members > lookAtOnce {
			time.AfterFunc(time.Duration(members)*lookPause, func() {
				if l.more(k) {
					l.run(k, look)
				}
			})
			return
		}
		if !l.more(k) {
			return
		}
	}
}

// more takes out whether anything has come since the last look began.
func (l *looks) more(k gang.Key) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.busy[k] {
		l.busy[k] = false
		return true
	}
	delete(l.busy, k)
	return false
}
