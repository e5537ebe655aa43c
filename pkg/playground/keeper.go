package playground

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// mostEnds within endsWithin are how often a kept scheduler may end: enough to kill it by hand again and again, and a
	// scheduler that cannot run is given up within seconds.
	mostEnds   = 5
	endsWithin = time.Minute
)

// ends are the times at which a process has ended, the latest last and none older than endsWithin before it.
type ends []time.Time

// add notes an end at now, which must not be before the others, and reports whether there were too many.
func (e *ends) add(now time.Time) bool {
	*e = append(*e, now)
	for now.Sub((*e)[0]) > endsWithin {
		*e = (*e)[1:]
	}
	return len(*e) > mostEnds
}

// keep starts the scheduler p again whenever it ends by itself, until the run ends, and then stops it. When it ends too
// often the run ends, with how it ended last.
func (c *Cluster) keep(p *Process, progress *Progress) {
	ctx, cancel := context.WithCancel(c.WhileRunning(context.Background()))
	defer cancel()
	var all ends
	for {
		var err error
		select {
		case <-c.Done():
			p.Stop()
			return
		case <-p.Done():
			err = p.Wait()
		}
		for {
			var exit *ExitError
			if !errors.As(err, &exit) {
				// It was not the scheduler that ended: the run is over, or the scheduler hangs.
				c.finish(err)
				return
			}
			if all.add(time.Now()) {
				c.finish(fmt.Errorf("weft-scheduler is given up, for it ended more than %d times within %v: %w", mostEnds, endsWithin, err))
				return
			}
			progress.Printf("weft-scheduler ended (%s), started again", exit.State)
			if p, err = StartScheduler(ctx, c.SchedulerOptions); err == nil {
				progress.Printf("weft-scheduler on %s", p.Address())
				break
			}
		}
	}
}
