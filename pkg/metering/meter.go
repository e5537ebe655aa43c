package metering

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/nvml"
	"weft.sh/weft/pkg/slot"
)

const (
	// Interval is how often the GPUs are measured, and how soon the end of a hold is noticed at the latest.
	Interval = 10 * time.Second
	// staleAfter is how old a measurement may be.
	staleAfter = 3 * Interval
	// Visible is how long the metrics of a hold that has ended stay, so that every scraper sees the last value.
	Visible = 5 * time.Minute
	// MaxEnded is how many holds that have ended are remembered.
	MaxEnded = 1000
)

// Library measures; it is a *nvml.Library.
type Library interface {
	Utilisation(id gpu.ID, since uint64) (nvml.Utilisation, error)
}

// Options are what a meter reads. The functions are called at any time, from several goroutines.
type Options struct {
	// Node is the name of the node.
	Node string
	// Book is what is given out at the moment.
	Book func() slot.Book
	// Inventory is what the node publishes.
	Inventory func() cluster.Inventory
	// Hardware is what NVML says and who says it. The library is the nil interface while NVML is not available; nothing is measured
	// then.
	Hardware func() (Library, nvml.Host)
	// Containers are the names of the containers of the pod by their IDs without the runtime ([ContainerNames]), nil for a pod that is
	// not known.
	Containers func(uid string) map[string]string
	// ProcRoot is the folder of processes, by the PIDs that NVML tells: the host's. Empty is /proc.
	ProcRoot string
	// Now is the clock, nil for the real one.
	Now func() time.Time
}

// Meter keeps account of a node's GPUs. Safe for concurrent use.
type Meter struct {
	Options

	mu sync.Mutex
	// live are the holds in the book.
	live map[key]*account
	// ended are those that are no longer in it, by their end, and forgotten how many were dropped from it.
	ended     []account
	forgotten int64
	samples   map[gpu.ID]*sample
	failures  int64
}

// account is a hold with what is remembered of it beside the book.
type account struct {
	hold
	// share of a MIG instance, fixed once it is known: the GPU's other instances can come and go.
	share int64
	// total is the last that was told, so that it never falls when the clock is set back.
	total int64
}

// New makes a meter. It reads nothing before it is asked.
func New(o Options) *Meter {
	if o.ProcRoot == "" {
		o.ProcRoot = "/proc"
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Meter{Options: o, live: map[key]*account{}, samples: map[gpu.ID]*sample{}}
}

// ContainerNames are the names of the pod's containers by their IDs, for [Options.Containers].
func ContainerNames(pod *v1.Pod) map[string]string {
	names := map[string]string{}
	for _, list := range [][]v1.ContainerStatus{
		pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses,
	} {
		for _, s := range list {
			// "<runtime>://<id>", empty before the first start.
			if _, id, ok := strings.Cut(s.ContainerID, "://"); ok && id != "" {
				names[id] = s.Name
			}
		}
	}
	return names
}

// Run measures every [Interval] until ctx ends.
func (m *Meter) Run(ctx context.Context) { wait.UntilWithContext(ctx, m.measure, Interval) }

// measure notices the holds that have ended, and asks NVML what is used. When NVML hangs, so does this, and nothing else.
func (m *Meter) measure(ctx context.Context) {
	m.mu.Lock()
	m.observe(m.Now())
	before := m.samples
	m.mu.Unlock()

	library, host := m.Hardware()
	samples := map[gpu.ID]*sample{}
	var failures int64
	if library != nil {
		for _, g := range host.GPUs {
			var since uint64
			if s := before[g.ID]; s != nil {
				since = s.Until
			}
			u, err := library.Utilisation(g.ID, since)
			if err != nil {
				failures++
				klog.FromContext(ctx).V(2).Info("Cannot measure the GPU", "gpu", g.ID, "err", err)
				continue
			}
			s := attribute(g, u, m.Now(), func(pid int) (user, string) { return whereIs(m.ProcRoot, pid, m.Containers) })
			samples[g.ID] = &s
		}
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	m.samples, m.failures = samples, m.failures+failures
}

// observe brings the accounts up to date with the book.
func (m *Meter) observe(now time.Time) {
	inventory := m.Inventory()
	shares := map[key]int64{}
	holds := holdsOf(m.Book(), func(k key) int64 {
		if a := m.live[k]; a != nil && a.share > 0 {
			shares[k] = a.share
		} else if shares[k] == 0 {
			shares[k] = shareOf(inventory, k.gpu, k.instance)
		}
		return shares[k]
	})
	live := make(map[key]*account, len(holds))
	for _, h := range holds {
		a := &account{hold: h, share: shares[h.key]}
		// A book that was lost and rebuilt counts anew.
		if before := m.live[h.key]; before != nil && before.from().Equal(h.from()) {
			a.total = before.total
		}
		a.total = max(a.total, h.total(now))
		live[h.key] = a
	}
	for k, a := range m.live {
		if live[k] != nil {
			continue
		}
		if a.to.IsZero() {
			a.to = now
			a.total = max(a.total, a.hold.total(now))
		}
		m.ended = append(m.ended, *a)
	}
	m.live = live
	slices.SortStableFunc(m.ended, func(a, b account) int { return cmp.Or(a.to.Compare(b.to), compareHolds(a.hold, b.hold)) })
	if over := len(m.ended) - MaxEnded; over > 0 {
		m.forgotten += int64(over)
		m.ended = slices.Delete(m.ended, 0, over)
	}
}

// compareHolds orders by the time since when, then by name.
func compareHolds(a, b hold) int {
	return cmp.Or(
		a.from().Compare(b.from()),
		cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.pod, b.pod), cmp.Compare(a.uid, b.uid), cmp.Compare(a.container, b.container),
		cmp.Compare(a.gpu, b.gpu), cmp.Compare(a.instance.Start, b.instance.Start), cmp.Compare(a.instance.Profile, b.instance.Profile),
		cmp.Compare(a.instance.Size, b.instance.Size),
	)
}

// state is the accounts at one moment. What it points to does not change.
type state struct {
	now       time.Time
	inventory cluster.Inventory
	host      nvml.Host
	// accounts are those that last, and those that ended and are remembered, by the time since when.
	accounts  []account
	forgotten int64
	// samples are those that are not too old.
	samples  map[gpu.ID]*sample
	failures int64
}

func (m *Meter) state() state {
	inventory := m.Inventory()
	_, host := m.Hardware()
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.Now()
	m.observe(now)
	s := state{
		now: now, inventory: inventory, host: host,
		accounts: slices.Clone(m.ended), forgotten: m.forgotten, samples: map[gpu.ID]*sample{}, failures: m.failures,
	}
	for _, a := range m.live {
		s.accounts = append(s.accounts, *a)
	}
	slices.SortFunc(s.accounts, func(a, b account) int { return cmp.Or(compareHolds(a.hold, b.hold), a.to.Compare(b.to)) })
	for id, sample := range m.samples {
		if now.Sub(sample.at) < staleAfter {
			s.samples[id] = sample
		}
	}
	return s
}

// lasts reports whether the hold has not ended.
func (h hold) lasts() bool { return h.to.IsZero() }

// holders tells whether a container holds something of the GPU.
func (s state) holders(id gpu.ID) func(user) bool {
	holding := map[user]bool{}
	for _, a := range s.accounts {
		if a.gpu == id && a.lasts() {
			holding[user{a.uid, a.container}] = true
		}
	}
	return func(u user) bool { return holding[u] }
}

// memoryMiB is the memory that the hold may use by what it was given, 0 when that is not known.
func (s state) memoryMiB(h hold) int64 {
	switch h.kind {
	case gpu.Shared:
		return h.memoryMiB
	case gpu.Whole:
		for _, d := range s.inventory.Devices {
			if d.ID == h.gpu {
				return d.MemoryMiB
			}
		}
	case gpu.MIG:
		for _, g := range s.host.GPUs {
			for _, d := range g.MIGDevices {
				if g.ID == h.gpu && d.Instance == h.instance {
					return d.MemoryMiB
				}
			}
		}
	}
	return 0
}
