package nvml

import (
	"sync"
	"time"
)

// gate lets many in, or one alone. It is no RWMutex because a call to NVML can hang for ever, with a GPU that does: who
// wants to be alone gives up after a while, and holds up the others no longer than that.
type gate struct {
	mu     sync.Mutex
	inside int
	// shut is not nil while somebody is, or waits to be, alone; it is closed when that is over.
	shut chan struct{}
}

// enter lets the caller in, with others.
func (g *gate) enter() {
	for {
		g.mu.Lock()
		shut := g.shut
		if shut == nil {
			g.inside++
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()
		<-shut
	}
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
}

// alone runs f while nobody is inside. It reports false, without having run it, when somebody stays inside for longer than
// patience.
func (g *gate) alone(patience time.Duration, f func()) bool {
	g.mu.Lock()
	for g.shut != nil {
		shut := g.shut
		g.mu.Unlock()
		<-shut
		g.mu.Lock()
	}
	g.shut = make(chan struct{})
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		close(g.shut)
		g.shut = nil
	}()
	const step = 5 * time.Millisecond
	for waited := time.Duration(0); ; waited += step {
		g.mu.Lock()
		inside := g.inside
		g.mu.Unlock()
		if inside == 0 {
			f()
			return true
		}
		if waited >= patience {
			return false
		}
		time.Sleep(step)
	}
}
