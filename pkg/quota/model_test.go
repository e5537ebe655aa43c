package quota

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// model is what a Book has to say, from plain lists: every claim that ever was, with what really happened.
type model struct {
	t      *testing.T
	specs  map[string]Spec
	paths  map[string][]string
	claims map[string][]*Claim // of each queue and all below it
	now    int64
	// carried is what the period that begins at the moment got, by queue.
	carried map[string]map[int64]int64
	present map[string]int64 // the start of the period now, by queue
	// delivered is the newest checkpoint that the book got, by queue.
	delivered map[string]Checkpoint
	overran   bool
}

func newModel(t *testing.T, tree *Tree, now int64) *model {
	m := &model{
		t: t, now: now, specs: map[string]Spec{}, paths: map[string][]string{}, carried: map[string]map[int64]int64{},
		claims: map[string][]*Claim{}, present: map[string]int64{}, delivered: map[string]Checkpoint{},
	}
	for _, name := range tree.Names() {
		m.specs[name], _ = tree.Spec(name)
		m.paths[name] = tree.Path(name)
		m.carried[name] = map[int64]int64{}
		if b := m.specs[name].Budget; b != nil {
			m.present[name], _ = b.PeriodAt(now)
		}
	}
	return m
}

func (m *model) add(c *Claim) {
	for _, q := range m.paths[c.Queue] {
		m.claims[q] = append(m.claims[q], c)
	}
}

// planned is when the claim is to end by what was checked when it started.
func planned(c *Claim) int64 {
	if c.Runtime == 0 {
		return c.Start + RollingHold
	}
	return c.Start + c.Runtime
}

// until is when the claim ends as far as is known.
func (m *model) until(c *Claim) int64 {
	switch {
	case c.End != 0:
		return c.End
	case c.Runtime != 0 && c.Start+c.Runtime > m.now:
		return c.Start + c.Runtime
	default:
		return m.now + RollingHold
	}
}

// charge is what all claims below the queue used and will use of [start, end).
func (m *model) charge(queue string, start, end int64) (sum int64) {
	for _, c := range m.claims[queue] {
		sum += c.Rate * overlap(c.Start, m.until(c), start, end)
	}
	return sum
}

// overrun is what of it nobody could know when it started.
func (m *model) overrun(queue string, start, end int64) (sum int64) {
	if !m.overran {
		return 0
	}
	for _, c := range m.claims[queue] {
		sum += c.Rate * overlap(planned(c), m.until(c), start, end)
	}
	return sum
}

func (m *model) running(queue string) (sum int64) {
	for _, c := range m.claims[queue] {
		if c.End == 0 {
			sum += c.MilliGPU
		}
	}
	return sum
}

// advance moves the time on, and closes the periods that are over.
func (m *model) advance(now int64) {
	m.now = now
	for name, s := range m.specs {
		for s.Budget != nil {
			start, end := s.Budget.PeriodAt(m.present[name])
			if end > now {
				break
			}
			used := m.charge(name, start, end)
			limit := s.Budget.LimitIn(start, end, m.carried[name][start])
			if over := m.overrun(name, start, end); used > limit+over {
				m.t.Fatalf("queue %s: used %d in [%d, %d), limit %d, overran by %d", name, used, start, end, limit, over)
			}
			m.carried[name] = map[int64]int64{end: s.Budget.Carry(used, limit)}
			m.present[name] = end
		}
		// What ended before the present period changes nothing any more.
		m.claims[name] = slices.DeleteFunc(m.claims[name], func(c *Claim) bool {
			return c.End != 0 && (s.Budget == nil || c.End <= m.present[name])
		})
	}
}

// checkpoint is what the books say of a queue at that moment.
func (m *model) checkpoint(queue string, asOf int64) (c Checkpoint, ok bool) {
	b := m.specs[queue].Budget
	start, end := b.PeriodAt(asOf)
	if start != m.present[queue] {
		return Checkpoint{}, false // what that period got is forgotten
	}
	return Checkpoint{AsOf: asOf, Start: start, End: end, Used: m.charge(queue, start, asOf), Carried: m.carried[queue][start]}, true
}

// carriedNow is what the book knows to be carried into the present period.
func (m *model) carriedNow(queue string, start, end int64) int64 {
	if c := m.delivered[queue]; c.Start == start && c.End == end {
		return c.Carried
	}
	return 0
}

// admits says whether the job may start.
func (m *model) admits(j Job) bool {
	for _, name := range m.paths[j[0].Queue] {
		s := m.specs[name]
		var milliGPU, last int64
		for _, c := range j {
			milliGPU += c.MilliGPU
			c.Start = m.now
			last = max(last, planned(&c))
		}
		if m.running(name)+milliGPU > s.Limit {
			return false
		}
		if s.Budget == nil {
			continue
		}
		start, end := s.Budget.PeriodAt(m.now)
		for carried := m.carriedNow(name, start, end); start < last; carried = 0 {
			need := int64(0)
			for _, c := range j {
				c.Start = m.now
				need += c.Rate * overlap(c.Start, planned(&c), start, end)
			}
			if need > 0 && m.charge(name, start, end)+need > s.Budget.LimitIn(start, end, carried) {
				return false
			}
			start, end = s.Budget.PeriodAt(end)
		}
	}
	return true
}

// check compares a queue of the book with the lists.
func (m *model) check(b *Book, name string) {
	m.t.Helper()
	got, ok := b.Standing(name)
	if !ok {
		m.t.Fatalf("queue %s is gone", name)
	}
	s := m.specs[name]
	if got.Running != m.running(name) {
		m.t.Fatalf("queue %s at %d: %d milli-GPU run, want %d", name, m.now, got.Running, m.running(name))
	}
	if got.Running > s.Limit {
		m.t.Fatalf("queue %s at %d: %d milli-GPU run, limit %d", name, m.now, got.Running, s.Limit)
	}
	if s.Budget == nil {
		return
	}
	start, end := s.Budget.PeriodAt(m.now)
	if got.Start != start || got.End != end {
		m.t.Fatalf("queue %s at %d: period [%d, %d), want [%d, %d)", name, m.now, got.Start, got.End, start, end)
	}
	if want := m.charge(name, start, end); got.Used+got.Held != want {
		m.t.Fatalf("queue %s at %d: used %d + held %d = %d, want %d; checkpoint %+v", name, m.now, got.Used, got.Held,
			got.Used+got.Held, want, m.delivered[name])
	}
	for a, n := b.queues[name].account, 0; n < len(a.periods); n++ {
		p := &a.periods[n]
		used, limit := p.held.value(), p.limit
		if n == 0 {
			used += a.used
			limit = s.Budget.LimitIn(start, end, m.carried[name][start])
		}
		if over := m.overrun(name, p.start, p.end); used > limit+over {
			m.t.Fatalf("queue %s at %d: used and held %d in [%d, %d), limit %d, overran by %d", name, m.now, used, p.start, p.end, limit, over)
		}
	}
}

// fresh is a book of the same that was never changed.
func fresh(b *Book) *Book {
	f := NewBook()
	f.SetTree(b.tree)
	for _, e := range b.entries {
		f.Set(e.claim)
	}
	maps.Copy(f.checkpoints, b.checkpoints)
	f.Advance(b.now)
	return f
}

// sameAs compares all that two books know.
func sameAs(t *testing.T, got, want *Book) {
	t.Helper()
	for _, name := range got.tree.Names() {
		g, _ := got.Standing(name)
		w, _ := want.Standing(name)
		if diff := cmp.Diff(w, g); diff != "" {
			t.Fatalf("queue %s at %d, from scratch and as it grew:\n%s", name, got.now, diff)
		}
		a, o := got.queues[name].account, want.queues[name].account
		if a == nil {
			continue
		}
		if a.used != o.used || a.asOf != o.asOf || a.rolling != o.rolling || a.ahead != o.ahead || a.clamped != o.clamped {
			t.Fatalf("queue %s at %d: account %+v, from scratch %+v", name, got.now, a, o)
		}
		for i := range max(len(a.periods), len(o.periods)) {
			var p, q period
			if i < len(a.periods) {
				p = a.periods[i]
			}
			if i < len(o.periods) {
				q = o.periods[i]
			}
			if p.held != q.held || i < len(a.periods) && i < len(o.periods) && p != q {
				t.Fatalf("queue %s at %d: period %+v, from scratch %+v", name, got.now, p, q)
			}
		}
	}
}

func location(t testing.TB, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

const gpuHour = 3600 * 1000

func modelTree(t testing.TB) *Tree {
	hold := func(gpuHours int64, p Period, zone string, rollover int64) *Budget {
		return &Budget{
			MilliGPUSeconds: gpuHours * gpuHour, Period: p, Location: location(t, zone), Enforcement: Hold, RolloverPercent: rollover,
			Adjustments: []Adjustment{{At: 1773000000, MilliGPUSeconds: 20 * gpuHour}, {At: 1775000000, MilliGPUSeconds: -15 * gpuHour}},
		}
	}
	tree, problems := NewTree([]Spec{
		{Name: "root", Weight: 1, Share: Share{Limit: 60000}, Budget: hold(9000, PeriodMonth, "America/New_York", 10)},
		{Name: "a", Parent: "root", Weight: 1, Share: Share{Limit: 40000}, Budget: hold(1000, PeriodWeek, "UTC", 50)},
		{Name: "b", Parent: "root", Weight: 1, Share: Share{Limit: NoLimit}},
		{Name: "a1", Parent: "a", Weight: 1, Share: Share{Limit: 30000}, Budget: hold(150, PeriodDay, "Europe/Berlin", 0)},
		{Name: "a2", Parent: "a", Weight: 1, Share: Share{Limit: NoLimit}},
		{Name: "a1x", Parent: "a1", Weight: 1, Share: Share{Limit: 16000}},
		{Name: "a1y", Parent: "a1", Weight: 1, Share: Share{Limit: NoLimit}, Budget: hold(90, PeriodDay, "Asia/Kolkata", 100)},
		{Name: "b1", Parent: "b", Weight: 1, Share: Share{Limit: NoLimit}, Budget: hold(240, PeriodDay, "America/Santiago", 20)},
	})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return tree
}

// TestUsedAndHeldNeverExceedTheLimit starts and ends random gangs over more than two years, with books that come late, out of order or
// for weeks not at all.
func TestUsedAndHeldNeverExceedTheLimit(t *testing.T) {
	attempts := 100_000
	if testing.Short() {
		attempts = 10_000
	}
	t.Run("all end when they said, or before", func(t *testing.T) { runModel(t, attempts, 1, false) })
	t.Run("some run over, and services never end", func(t *testing.T) { runModel(t, attempts/4, 2, true) })
}

func runModel(t *testing.T, attempts int, seed uint64, overrun bool) {
	r := rand.New(rand.NewPCG(seed, 5))
	tree := modelTree(t)
	now := time.Date(2026, 2, 27, 13, 0, 0, 0, time.UTC).Unix()
	m := newModel(t, tree, now)
	m.overran = overrun
	b := NewBook()
	b.SetTree(tree)
	b.Advance(now)
	names := tree.Names()
	leaves := []string{"a1x", "a1y", "a2", "b1", "b", "a1"}
	type late struct {
		queue string
		c     Checkpoint
	}
	var mail []late
	var admitted, refused, ended, gangs int
	because := map[string]int{}
	down := int64(0)
	ends := map[*Claim]int64{} // what really ends when
	for n := range attempts {
		// Time, and what ends by then.
		step := r.Int64N(1800)
		if r.IntN(300) == 0 {
			step = r.Int64N(3 * 86400)
		}
		now += step
		for c, end := range ends {
			if end <= now {
				c.End = end
				ended++
				delete(ends, c)
				b.Set(*c)
			}
		}
		m.advance(now)
		b.Advance(now)
		// The books: watermarks lag, messages come late and in any order, and for a while there are none.
		if r.IntN(2000) == 0 {
			down = now + r.Int64N(10*86400)
		}
		if now > down && r.IntN(3) == 0 {
			q := names[r.IntN(len(names))]
			if m.specs[q].Budget != nil {
				if c, ok := m.checkpoint(q, now-r.Int64N(120)); ok {
					mail = append(mail, late{q, c})
				}
			}
		}
		if len(mail) > 0 && r.IntN(3) == 0 {
			i := r.IntN(len(mail))
			l := mail[i]
			mail = append(mail[:i], mail[i+1:]...)
			b.SetCheckpoint(l.queue, l.c)
			if l.c.AsOf >= m.delivered[l.queue].AsOf {
				m.delivered[l.queue] = l.c
			}
		}
		// One gang.
		queue := leaves[r.IntN(len(leaves))]
		j := make(Job, 1+r.IntN(4)*r.IntN(3))
		for i := range j {
			milliGPU := []int64{125, 250, 1000, 1000, 2000, 8000}[r.IntN(6)]
			j[i] = Claim{
				ID: fmt.Sprintf("%d/%d", n, i), Queue: queue, Class: []string{"big", "small"}[r.IntN(2)], MilliGPU: milliGPU,
				Rate: milliGPU * []int64{1000, 1500, 300}[r.IntN(3)] / 1000, Runtime: 1 + r.Int64N(6*3600),
			}
			switch r.IntN(40) {
			case 0:
				j[i].Runtime = 1 + r.Int64N(4*86400)
			case 1:
				if overrun {
					j[i].Runtime = 0
				}
			}
		}
		v := b.Admit(j)
		if want := m.admits(j); v.OK() != want {
			t.Fatalf("attempt %d at %d: admitted is %v (%s), want %v; job %+v", n, now, v.OK(), v.Message(), want, j)
		}
		if !v.OK() {
			refused++
			because[v.Queue+" "+v.Reason.String()]++
			if v.CouldStart != 0 && v.CouldStart <= now {
				t.Fatalf("attempt %d at %d: could start at %d: %s", n, now, v.CouldStart, v.Message())
			}
		} else {
			admitted++
			if len(j) > 1 {
				gangs++
			}
			for i := range j {
				j[i].Start = now
				b.Set(j[i])
			}
			if r.IntN(20) == 0 { // undone
				for i := range j {
					b.Delete(j[i].ID)
				}
			} else {
				for i := range j {
					c := &j[i]
					m.add(c)
					ends[c] = planned(c)
					switch {
					case r.IntN(3) == 0:
						ends[c] = now + 1 + r.Int64N(planned(c)-now)
					case overrun && r.IntN(5) == 0:
						ends[c] = planned(c) + r.Int64N(6*3600)
					}
				}
			}
		}
		for _, name := range m.paths[queue] {
			m.check(b, name)
		}
		if n%500 == 0 {
			sameAs(t, b, fresh(b))
		}
	}
	if admitted < attempts/20 || gangs < attempts/100 {
		t.Errorf("admitted %d of %d, %d of them gangs: nothing is shown", admitted, attempts, gangs)
	}
	for _, name := range names {
		if m.specs[name].Budget != nil && because[name+" OverBudget"] == 0 {
			t.Errorf("the budget of %s was never in the way: nothing is shown; %v", name, because)
		}
	}
	t.Logf("admitted %d (%d gangs), refused %d, ended %d; %d claims in the book at the end; %v", admitted, gangs, refused, ended,
		len(b.entries), because)
}
