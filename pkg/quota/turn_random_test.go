package quota

import (
	"cmp"
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

// randomContest is a small one, in whole units, with all that can be: limits, guarantees, weights, classes, gangs, who is
// stuck.
func randomContest(r *rand.Rand) contest {
	c := contest{now: 1000}
	classes := 1 + r.IntN(3)
	for range classes {
		c.idle = append(c.idle, int64(r.IntN(9)))
		c.capacity = append(c.capacity, int64(10+r.IntN(40)))
	}
	if r.IntN(8) == 0 {
		clear(c.idle)
	}
	for i := range 1 + r.IntN(7) {
		s := stake{parent: r.IntN(i+2) - 1, weight: 1 + int64(r.IntN(3)), held: make([]int64, classes), throttled: r.IntN(10) == 0}
		if i == 0 || s.parent == i {
			s.parent = -1
		}
		s.Limit = NoLimit
		if r.IntN(2) == 0 {
			s.Guaranteed = int64(r.IntN(12))
		}
		c.stakes = append(c.stakes, s)
	}
	for i := range c.stakes { // what is held right in a queue
		for class := range classes {
			n := int64(r.IntN(5))
			for q := i; q >= 0; q = c.stakes[q].parent {
				c.stakes[q].running += n
				c.stakes[q].held[class] += n
			}
		}
	}
	for i := range c.stakes {
		if s := &c.stakes[i]; r.IntN(3) == 0 {
			s.Limit = max(s.Guaranteed, s.running+int64(r.IntN(10)))
		}
	}
	sets := []*classSet{{}}
	for class := range classes {
		sets[0].of = append(sets[0].of, class)
		sets = append(sets, &classSet{of: []int{class}})
	}
	sets = append(sets, &classSet{})
	for i := range r.IntN(30) {
		b := bid{
			queue: r.IntN(len(c.stakes)), priority: int32(r.IntN(2)), queued: int64(i), id: fmt.Sprint(i),
			classes: sets[r.IntN(len(sets))], stuck: r.IntN(6) == 0,
		}
		if r.IntN(2) == 0 {
			b.runtime = 1 + int64(r.IntN(100))
		}
		p := portion{1 + int64(r.IntN(4)), 1 + int64(r.IntN(3))}
		b.sizes, b.need = []portion{p}, p.milliGPU*p.count
		c.bids = append(c.bids, b)
	}
	r.Shuffle(len(c.bids), func(i, j int) { c.bids[i], c.bids[j] = c.bids[j], c.bids[i] })
	var ends []ending
	for range r.IntN(6) {
		ends = append(ends, ending{class: r.IntN(classes), at: 1000 + int64(r.IntN(100)), milliGPU: 1 + int64(r.IntN(4))})
	}
	c.endings = func() []ending { return slices.Clone(ends) }
	return c
}

// slow decides a contest as Turns has it written, step by step from nothing, with fractions of big numbers.
type slow struct {
	contest
	left    []int64
	running []int64
	held    [][]int64
	lines   [][]int         // by queue, what is undecided
	kept    []map[int]int64 // by queue
	tried   []bool
	may     []bool
}

func decideSlowly(c contest) *slow {
	s := &slow{contest: c, left: slices.Clone(c.idle), may: make([]bool, len(c.bids))}
	for i := range c.stakes {
		s.running = append(s.running, c.stakes[i].running)
		s.held = append(s.held, slices.Clone(c.stakes[i].held))
		s.lines, s.kept, s.tried = append(s.lines, nil), append(s.kept, map[int]int64{}), append(s.tried, false)
	}
	for b := range c.bids {
		s.lines[c.bids[b].queue] = append(s.lines[c.bids[b].queue], b)
	}
	for q := range s.lines {
		slices.SortFunc(s.lines[q], func(a, b int) int {
			x, y := c.bids[a], c.bids[b]
			return cmp.Or(cmp.Compare(y.priority, x.priority), cmp.Compare(x.queued, y.queued))
		})
		s.drop(q)
	}
	for {
		b := s.pick(-1)
		if b < 0 {
			break
		}
		q := c.bids[b].queue
		if s.can(b) {
			s.serve(b)
		} else {
			s.pass(b)
		}
		s.lines[q] = s.lines[q][1:]
		s.drop(q)
	}
	for b := range c.bids {
		if c.bids[b].stuck && s.limits(b) {
			_, s.may[b] = s.split(b, s.left, true)
		}
	}
	return s
}

func (s *slow) up(q int) []int {
	var out []int
	for ; q >= 0; q = s.stakes[q].parent {
		out = append(out, q)
	}
	return out
}

func (s *slow) limits(b int) bool {
	return !slices.ContainsFunc(s.up(s.bids[b].queue), func(q int) bool {
		limit := s.stakes[q].Limit
		if s.stakes[q].throttled {
			limit = min(limit, s.stakes[q].Guaranteed)
		}
		return s.running[q]+s.bids[b].need > limit
	})
}

func (s *slow) entitled(b int) bool {
	return slices.ContainsFunc(s.up(s.bids[b].queue), func(q int) bool {
		return s.running[q]+s.bids[b].need <= s.stakes[q].Guaranteed
	})
}

// split is what the job takes of each class, and whether that is all it needs.
func (s *slow) split(b int, of []int64, keep bool) (map[int]int64, bool) {
	bid := s.bids[b]
	classes := slices.Clone(bid.classes.of)
	slices.SortStableFunc(classes, func(x, y int) int {
		return big.NewRat(of[y], s.capacity[y]).Cmp(big.NewRat(of[x], s.capacity[x]))
	})
	out, count := map[int]int64{}, bid.sizes[0].count
	for _, class := range classes {
		if until, ok := s.kept[bid.queue][class]; keep && ok && (bid.runtime == 0 || s.now+bid.runtime > until) {
			continue
		}
		n := min(count, of[class]/bid.sizes[0].milliGPU)
		out[class] = n * bid.sizes[0].milliGPU
		count -= n
	}
	return out, count == 0
}

func (s *slow) can(b int) bool {
	if len(s.bids[b].classes.of) == 0 || !s.limits(b) {
		return false
	}
	_, fits := s.split(b, s.left, true)
	return fits || s.entitled(b)
}

func (s *slow) serve(b int) {
	bid := s.bids[b]
	s.may[b] = true
	take, ok := s.split(b, s.left, true)
	if !ok {
		take, ok = s.split(b, s.left, false)
	}
	owed := map[int]int64{}
	if !ok {
		missing := bid.need
		for _, class := range bid.classes.of {
			take[class] = min(missing, s.left[class])
			missing -= take[class]
		}
		owed[bid.classes.of[0]] = missing
	}
	for class := range s.left {
		s.left[class] -= take[class]
		for _, q := range s.up(bid.queue) {
			s.running[q] += take[class] + owed[class]
			s.held[q][class] += take[class] + owed[class]
		}
	}
}

func (s *slow) pass(b int) {
	bid := s.bids[b]
	if !s.limits(b) {
		return
	}
	_, alone := s.split(b, s.idle, false)
	if !bid.stuck && !s.tried[bid.queue] {
		s.tried[bid.queue], s.may[b] = true, !alone
	}
	if _, fits := s.split(b, s.left, false); fits || bid.stuck && alone {
		return
	}
	for at := s.now; at < 2000; at++ {
		sum := int64(0)
		for _, class := range bid.classes.of {
			sum += s.idle[class]
		}
		for _, e := range s.endings() {
			if e.at <= at && slices.Contains(bid.classes.of, e.class) {
				sum += e.milliGPU
			}
		}
		if sum < bid.need {
			continue
		}
		for _, class := range bid.classes.of {
			if _, ok := s.kept[bid.queue][class]; !ok {
				s.kept[bid.queue][class] = at
			}
		}
		return
	}
}

// drop passes over what has no room at the head of a line.
func (s *slow) drop(q int) {
	for len(s.lines[q]) > 0 {
		if b := s.lines[q][0]; !s.bids[b].stuck && s.can(b) {
			return
		}
		s.pass(s.lines[q][0])
		s.lines[q] = s.lines[q][1:]
	}
}

// pick is the job whose turn it is among those below the queue, -1 for none.
func (s *slow) pick(above int) int {
	type one struct {
		bid         int
		rank        int
		part, share *big.Rat
	}
	var all []one
	add := func(b int, st stake, running int64, held []int64) {
		o := one{bid: b, rank: 1, part: new(big.Rat), share: new(big.Rat)}
		if running+s.bids[b].need <= st.Guaranteed {
			o.rank, o.part = 0, big.NewRat(running, st.Guaranteed)
		}
		if st.throttled {
			o.rank, o.part = 2, new(big.Rat)
		}
		for class := range held {
			if x := big.NewRat(min(held[class], max(0, running-st.Guaranteed)), s.capacity[class]*st.weight); x.Cmp(o.share) > 0 {
				o.share = x
			}
		}
		all = append(all, o)
	}
	for q := range s.stakes {
		if s.stakes[q].parent == above {
			if b := s.pick(q); b >= 0 {
				add(b, s.stakes[q], s.running[q], s.held[q])
			}
		}
	}
	if above >= 0 && len(s.lines[above]) > 0 {
		running, held := s.running[above], slices.Clone(s.held[above])
		for q := range s.stakes {
			if s.stakes[q].parent == above {
				running -= s.running[q]
				for class := range held {
					held[class] -= s.held[q][class]
				}
			}
		}
		add(s.lines[above][0], stake{weight: 1}, running, held)
	}
	if len(all) == 0 {
		return -1
	}
	return slices.MinFunc(all, func(x, y one) int {
		return cmp.Or(cmp.Compare(x.rank, y.rank), x.part.Cmp(y.part), x.share.Cmp(y.share),
			cmp.Compare(s.bids[x.bid].queued, s.bids[y.bid].queued))
	}).bid
}

func TestTurnsAgainstASlowOne(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 1))
	served, kept, contested := 0, 0, 0
	for round := range 4000 {
		c := randomContest(r)
		want := decideSlowly(c)
		got := c.fill()
		if diff := gocmp.Diff(want.may, got.may); diff != "" {
			t.Fatalf("round %d: %+v\n(-want +got)\n%s", round, c, diff)
		}
		if diff := gocmp.Diff(want.left, got.left); diff != "" {
			t.Fatalf("round %d, left: (-want +got)\n%s", round, diff)
		}
		mustBeFair(t, c, want)
		for i, may := range got.may {
			if may {
				served++
			} else if !c.bids[i].stuck {
				contested++
			}
		}
		for _, k := range want.kept {
			kept += len(k)
		}
	}
	t.Logf("%d jobs may, %d may not, in %d queues something was kept", served, contested, kept)
	if served < 5000 || contested < 5000 || kept < 1000 {
		t.Error("the contests decide nothing")
	}
}

// mustBeFair checks what is promised of the outcome, however it came about.
func mustBeFair(t *testing.T, c contest, s *slow) {
	t.Helper()
	for class, n := range s.left {
		if n < 0 {
			t.Fatalf("%d of class %d were given away twice", -n, class)
		}
	}
	for q := range c.stakes {
		if limit := c.stakes[q].Limit; s.running[q] > max(limit, c.stakes[q].running) {
			t.Fatalf("queue %d has %d, its limit is %d", q, s.running[q], limit)
		}
	}
	for b, bid := range c.bids {
		if s.may[b] || bid.stuck || len(bid.classes.of) == 0 || !s.limits(b) {
			continue
		}
		if s.entitled(b) {
			t.Fatalf("job %d is within a guarantee and may not try", b)
		}
		// Nothing is idle that it could use, unless a job ahead waits for it, with an end in sight.
		if _, fits := s.split(b, s.left, false); !fits {
			continue
		}
		sooner := func(o int) bool {
			other := c.bids[o]
			later := cmp.Or(cmp.Compare(bid.priority, other.priority), cmp.Compare(other.queued, bid.queued)) >= 0
			if other.queue != bid.queue || later {
				return false
			}
			if _, alone := s.split(o, c.idle, false); alone && s.may[o] {
				return false // it has its room
			}
			hope := int64(0)
			for _, class := range other.classes.of {
				hope += c.idle[class]
				for _, e := range c.endings() {
					if e.class == class {
						hope += e.milliGPU
					}
				}
			}
			return hope >= other.need && slices.ContainsFunc(other.classes.of, func(x int) bool {
				return slices.Contains(bid.classes.of, x)
			})
		}
		if !slices.ContainsFunc(s.everybody(), sooner) {
			t.Fatalf("%v are left idle, and job %d could use them", s.left, b)
		}
	}
}

// everybody is all bids.
func (s *slow) everybody() []int {
	all := make([]int, len(s.bids))
	for i := range all {
		all[i] = i
	}
	return all
}
