package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/health"
	"weft.sh/weft/pkg/nvml"
)

const (
	// lookEvery is how often each GPU is looked at. One that does not answer until the next look counts as lost.
	lookEvery = 5 * time.Second
	// late is when a look should have been answered. It is a little less than lookEvery, for no clock ticks exactly.
	late = lookEvery - lookEvery/10
	// discoverEvery is how often everything is read anew: an admin may have changed the MIG geometry, a lost GPU may be back.
	discoverEvery = time.Minute
	// discoverPause is the least time between two of these: NVML is started anew while a GPU is lost, which takes seconds.
	discoverPause = 10 * time.Second
	// patience is how long everything may take to be read before NVML counts as unavailable.
	patience = time.Minute
	// openFirst and openCap are the first and the longest pause before NVML is opened again.
	openFirst, openCap = time.Second, time.Minute
	// dead is how long the loop may be silent; it never waits for NVML.
	dead = 10 * lookEvery
)

// errHangs is why NVML is unavailable when it does not answer.
var errHangs = errors.New("NVML does not answer; see the kernel's log, and whether the node has to be rebooted")

// hardware watches the node's GPUs and posts what it sees on the board. One goroutine, that of run, has all of its state; calls to NVML
// are made by others, for NVML may hang.
type hardware struct {
	open   func() (library, error)
	memory memory
	policy policy
	health health.Limits
	board  *board
	driver *driver
	// again asks for everything to be read anew soon.
	again chan struct{}

	cards []card
	// written is what the memory has.
	written remembered
	// monitors judge the GPUs that NVML has told of.
	monitors map[gpu.ID]*health.Monitor

	mu   sync.Mutex
	seen time.Time
}

func newHardware(c Config, b *board) *hardware {
	h := &hardware{
		open: func() (library, error) {
			lib, err := c.Open(c.Driver.library())
			if err != nil {
				return nil, err // and no nil *Library that is no nil library
			}
			return lib, nil
		},
		memory: memory{filepath.Join(c.Paths.State, "gpus.json"), bootID()},
		policy: c.policy(), health: c.Health.Limits, board: b, again: make(chan struct{}, 1), seen: time.Now(),
		monitors: map[gpu.ID]*health.Monitor{},
	}
	h.driver = &driver{options: c.Driver.edits(), board: b, stale: func() { poke(h.again) }}
	return h
}

// policy is what the admin has decided, and what this node can do.
func (c Config) policy() policy {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return policy{mode: c.Mode, shared: c.SharedGPUs, cgroup2: err == nil, mps: mpsReady(c.MPSRoot)}
}

// alive is nil while the loop goes round.
func (h *hardware) alive() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if silent := time.Since(h.seen); silent > dead {
		return fmt.Errorf("the GPUs were looked at %s ago", silent.Round(time.Second))
	}
	return nil
}

func (h *hardware) beat() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen = time.Now()
}

// run watches until ctx ends.
func (h *hardware) run(ctx context.Context) {
	h.recall(ctx)
	fresh := wait.Backoff{Duration: openFirst, Factor: 2, Jitter: 0.1, Steps: 100, Cap: openCap}
	backoff := fresh
	for ctx.Err() == nil {
		lib, err := h.opened(ctx)
		if err == nil {
			s := &session{hardware: h, lib: lib, looking: map[gpu.ID]time.Time{}, looks: make(chan look), found: make(chan discovery)}
			var worked bool
			worked, err = s.run(ctx)
			if worked {
				backoff = fresh
			}
		}
		if ctx.Err() != nil {
			return
		}
		h.post(nvml.Host{}, err, nil)
		for end := time.Now().Add(backoff.Step()); ctx.Err() == nil && time.Now().Before(end); {
			h.beat()
			pause(ctx, min(lookEvery, time.Until(end)))
		}
	}
}

// opened opens NVML, however long that takes.
func (h *hardware) opened(ctx context.Context) (library, error) {
	type opening struct {
		lib library
		err error
	}
	done := make(chan opening, 1)
	go func() {
		lib, err := h.open()
		done <- opening{lib, err}
	}()
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for began := time.Now(); ; {
		h.beat()
		select {
		case o := <-done:
			return o.lib, o.err
		case <-ctx.Done():
			return nil, ctx.Err()
		case now := <-ticker.C:
			if now.Sub(began) > patience {
				h.post(nvml.Host{}, errHangs, nil)
			}
		}
	}
}

// post shows what is known now, if it is not what was shown last.
func (h *hardware) post(host nvml.Host, unavailable error, sick map[gpu.ID]string) {
	next := derive(h.cards, host, unavailable, sick, h.policy)
	last, _ := h.board.look()
	if last == nil || !reflect.DeepEqual(last, next) {
		h.board.post(next)
	}
}

// session is the time from one opening of NVML until it is found unavailable.
type session struct {
	*hardware
	lib  library
	host nvml.Host
	// calls are those to NVML that have not returned.
	calls sync.WaitGroup
	// looking is when the looks began that have not been answered yet.
	looking map[gpu.ID]time.Time
	looks   chan look
	// answered is when the latest look began that found a GPU well enough to answer.
	answered time.Time
	// discovering is since when everything is being read, zero while it is not; discovered when that ended last, and discoveries
	// how often it began or ended.
	discovering, discovered time.Time
	discoveries             int
	found                   chan discovery
	// wanted says that everything is to be read anew as soon as that may be.
	wanted bool
}

// look is the answer to one look at one GPU.
type look struct {
	id        gpu.ID
	condition nvml.Condition
	began     time.Time
	// discoveries is the session's when the look began. While everything is read NVML may be started anew, and then no GPU answers.
	discoveries int
}

// discovery is the answer to reading everything.
type discovery struct {
	host nvml.Host
	err  error
}

// run watches until ctx ends or NVML is unavailable, which it returns. worked says that it was available before.
func (s *session) run(ctx context.Context) (worked bool, _ error) {
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		s.driver.use(nil)
		// Somebody may be inside for ever.
		go func() {
			s.calls.Wait()
			_ = s.lib.Close()
		}()
	}()
	events := make(chan nvml.Event)
	s.calls.Go(func() { s.events(ctx, events) })
	s.discover(ctx)

	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		s.beat()
		select {
		case <-ctx.Done():
			return worked, ctx.Err()
		case d := <-s.found:
			s.discovering, s.discovered = time.Time{}, time.Now()
			s.discoveries++
			for id := range s.looking { // they may have had to wait for it
				s.looking[id] = s.discovered
			}
			if d.err != nil {
				return worked, d.err
			}
			worked = true
			s.take(d.host)
			s.driver.use(s.lib)
		case l := <-s.looks:
			s.answer(l, time.Now())
		case e := <-events:
			s.hear(ctx, e)
		case <-s.again:
			s.discover(ctx)
		case now := <-ticker.C:
			switch {
			case s.discovering.IsZero():
				if s.wanted || now.Sub(s.discovered) >= discoverEvery {
					s.discover(ctx)
				}
			case now.Sub(s.discovering) > patience && now.Sub(s.answered) > patience:
				return worked, errHangs // and not only one of the GPUs does
			}
			s.lookAtAll(ctx)
		}
		s.remember(ctx)
		if worked {
			s.post(s.host, nil, s.sick())
		}
	}
}

// discover reads everything anew, unless that is being done or was done just now, or would hang at a GPU that does not answer; then it
// is done later.
func (s *session) discover(ctx context.Context) {
	now := time.Now()
	if !s.discovering.IsZero() || now.Sub(s.discovered) < discoverPause || s.hangs(now) {
		s.wanted = true
		return
	}
	s.wanted, s.discovering = false, now
	s.discoveries++
	s.calls.Go(func() {
		host, err := s.lib.Discover()
		select {
		case s.found <- discovery{host, err}:
		case <-ctx.Done():
		}
	})
}

// take makes the host what the node has.
func (s *session) take(host nvml.Host) {
	s.cards = merge(s.cards, cardsOf(host))
	for _, g := range host.GPUs {
		if s.monitors[g.ID] == nil {
			s.monitors[g.ID] = health.NewMonitor(s.health)
		}
	}
	s.host = host
}

// hangs reports whether a GPU should have answered by now.
func (s *session) hangs(now time.Time) bool {
	for _, began := range s.looking {
		if now.Sub(began) >= late {
			return true
		}
	}
	return false
}

// lookAtAll looks at every GPU whose last look has been answered, and judges those that should have answered by now. While everything is
// read NVML may be started anew, for which all looks wait; a GPU is judged then only when another has answered a later look.
func (s *session) lookAtAll(ctx context.Context) {
	now := time.Now()
	for id := range s.monitors {
		if began, ok := s.looking[id]; ok {
			if now.Sub(began) >= late && (s.discovering.IsZero() || s.answered.After(began)) {
				s.judge(id, nvml.Condition{Lost: true, Err: fmt.Sprintf("it has not answered for %s", lookEvery)}, now)
			}
			continue
		}
		s.looking[id] = now
		discoveries := s.discoveries
		s.calls.Go(func() {
			select {
			case s.looks <- look{id, s.lib.Check(id), now, discoveries}:
			case <-ctx.Done():
			}
		})
	}
}

// answer takes note of the answer to a look. That a GPU is lost is not believed while everything is or was being read meanwhile.
func (s *session) answer(l look, now time.Time) {
	delete(s.looking, l.id)
	lost := l.condition.Lost || l.condition.Err != ""
	if !lost && l.began.After(s.answered) {
		s.answered = l.began
	}
	if !lost || s.discovering.IsZero() && l.discoveries == s.discoveries {
		s.judge(l.id, l.condition, now)
	}
}

// events passes on what NVML reports.
func (s *session) events(ctx context.Context, to chan<- nvml.Event) {
	for ctx.Err() == nil {
		err := s.lib.Events(ctx, func(e nvml.Event) {
			select {
			case to <- e:
			case <-ctx.Done():
			}
		})
		if ctx.Err() == nil {
			klog.FromContext(ctx).V(2).Info("NVML reports no events; the GPUs are only looked at", "every", lookEvery, "err", err)
			pause(ctx, discoverEvery)
		}
	}
}
