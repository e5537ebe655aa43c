package gang

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gpu"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// minutes is noon and so many minutes.
func minutes(m int) time.Time { return noon.Add(time.Duration(m) * time.Minute) }

// running is the pod with its end in minutes after noon, 0 for not known.
func (t *town) running(uid string, end int) Running {
	r := Running{Occupant: t.pods[uid]}
	if end != 0 {
		r.End = minutes(end)
	}
	return r
}

func TestStart(t *testing.T) {
	for name, tc := range map[string]struct {
		ends    map[string]int // of the pods n0, n1, ... that fill the node of their name
		members int
		placed  int // so many are on the last nodes
		want    string
	}{
		"now, where there is room":                      {map[string]int{"n0": 5}, 2, 0, "0s on n1 n2"},
		"when the first has ended":                      {map[string]int{"n0": 9, "n1": 5, "n2": 7}, 1, 0, "5m0s on n1"},
		"when enough have":                              {map[string]int{"n0": 9, "n1": 5, "n2": 7}, 2, 0, "7m0s on n1 n2"},
		"not before the last, where all are needed":     {map[string]int{"n0": 9, "n1": 5, "n2": 7}, 3, 0, "9m0s on n0 n1 n2"},
		"pods that end at one time leave together":      {map[string]int{"n0": 5, "n1": 5, "n2": 7}, 2, 0, "5m0s on n0 n1"},
		"a minute from now after an end that is past":   {map[string]int{"n0": -30, "n1": -1, "n2": 7}, 2, 0, "1m0s on n0 n1"},
		"an overdue pod does not end before others":     {map[string]int{"n0": -30, "n1": 5, "n2": 7}, 2, 0, "5m0s on n0 n1"},
		"never by waiting for an end that is not known": {map[string]int{"n0": 0, "n1": 5, "n2": 7}, 3, 0, "never"},
		"without those whose end is not known":          {map[string]int{"n0": 0, "n1": 5, "n2": 7}, 2, 0, "7m0s on n1 n2"},
		"never what the cluster does not have":          {map[string]int{"n0": 4, "n1": 5, "n2": 7}, 4, 0, "never"},
		"members that have places count":                {map[string]int{"n0": 4, "n1": 5}, 2, 1, "4m0s on n0"},
	} {
		t.Run(name, func(t *testing.T) {
			town := newTown(2, 2, 2)
			town.want(tc.members, []int{tc.members}, whole(2))
			for m := range tc.placed {
				node := len(town.Nodes) - 1 - m
				town.put(town.Members[m].UID, node, whole(2))
				town.Members[m].Node = town.Nodes[node].Name
			}
			var running []Running
			for i := range town.Nodes {
				name := town.Nodes[i].Name
				if end, ok := tc.ends[name]; ok {
					town.put(name, i, whole(2))
					running = append(running, town.running(name, end))
				}
			}
			start, res, ok := Start(&town.Problem, running, noon)
			got := "never"
			if ok {
				var on []string
				for _, pl := range res.Placements {
					on = append(on, town.Nodes[pl.Node].Name)
				}
				slices.Sort(on)
				got = fmt.Sprintf("%s on %s", start.Sub(noon), strings.Join(on, " "))
			}
			if got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func TestStartAgainstTryingEveryEnd(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	waits := 0
	for range 300 {
		town, units, _ := randomTown(r, 2+r.IntN(5), 12, oneShape)
		var running []Running
		var ends []time.Time
		for u := range units {
			for _, o := range units[u].Pods {
				one := town.running(o.UID, r.IntN(12))
				running = append(running, one)
				if !one.End.IsZero() {
					ends = append(ends, one.End)
				}
			}
		}
		want := "never"
		if _, rejection := Plan(&town.Problem); rejection.OK() {
			want = noon.String()
		} else {
			slices.SortFunc(ends, time.Time.Compare)
			for _, end := range ends {
				var gone []Unit
				for _, one := range running {
					if !one.End.IsZero() && !one.End.After(end) {
						gone = append(gone, Unit{Pods: []Occupant{one.Occupant}})
					}
				}
				all := make([]int, len(gone))
				for i := range all {
					all[i] = i
				}
				if fitsWithout(&town.Problem, gone, all) {
					want = end.String()
					waits++
					break
				}
			}
		}
		start, _, ok := Start(&town.Problem, running, noon)
		got := "never"
		if ok {
			got = start.String()
		}
		if got != want {
			t.Fatalf("starts at %s, want %s", got, want)
		}
	}
	if waits < 50 {
		t.Errorf("only %d gangs had to wait", waits)
	}
}

func TestDrain(t *testing.T) {
	for name, tc := range map[string]struct {
		ends     map[string]int // as in TestStart; "n0+" and "n0-" fill a half of it each
		members  int
		required bool
		want     string
	}{
		"what is free already":                   {map[string]int{"n0": 0}, 3, false, "n1 n2 n3"},
		"fewest ends that are not known":         {map[string]int{"n0+": 0, "n0-": 0, "n1": 0, "n2": 0, "n3+": 0, "n3-": 0}, 2, false, "n1 n2"},
		"any known end before one that is not":   {map[string]int{"n0": 0, "n1+": 90, "n1-": 80, "n2+": 70, "n2-": 60, "n3": 0}, 2, false, "n1 n2"},
		"what is half free before what is full":  {map[string]int{"n0+": 0, "n0-": 0, "n1+": 0, "n2+": 0, "n2-": 0, "n3+": 0, "n3-": 0}, 1, false, "n1"},
		"in one domain, where one is required":   {map[string]int{"n0": 0, "n1": 5, "n2+": 0, "n2-": 0, "n3": 5}, 2, true, "n0 n1"},
		"what the cluster does not have, nobody": {map[string]int{"n0": 0}, 5, false, "InsufficientGangCapacity"},
	} {
		t.Run(name, func(t *testing.T) {
			town := newTown(2, 2, 2, 2)
			town.want(tc.members, []int{tc.members}, whole(2))
			if tc.required {
				town.Required = "rack"
			}
			var running []Running
			for i := range town.Nodes {
				for suffix, gpus := range map[string]int{"": 2, "+": 1, "-": 1} {
					uid := town.Nodes[i].Name + suffix
					if end, ok := tc.ends[uid]; ok {
						town.put(uid, i, whole(gpus))
						running = append(running, town.running(uid, end))
					}
				}
			}
			slices.SortFunc(running, func(a, b Running) int { return strings.Compare(a.UID, b.UID) })
			res, rejection := Drain(&town.Problem, running)
			got := rejection.Message()
			if rejection.OK() {
				var on []string
				for _, pl := range res.Placements {
					on = append(on, town.Nodes[pl.Node].Name)
				}
				slices.Sort(on)
				got = strings.Join(on, " ")
			}
			if !strings.Contains(got, tc.want) {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func TestExempt(t *testing.T) {
	mine, other := Key{Namespace: "ns", Name: "gang"}, Key{Namespace: "ns", Name: "other"}
	known := Reservation{Gang: mine, Priority: 5, Start: minutes(10), Expires: minutes(60)}
	unknown := Reservation{Gang: mine, Priority: 5}
	for name, tc := range map[string]struct {
		r        Reservation
		gang     Key
		priority int32
		end      time.Time
		want     bool
	}{
		"a member":                                 {known, mine, 5, time.Time{}, true},
		"a pod of another gang":                    {known, other, 5, time.Time{}, false},
		"a pod of higher priority":                 {known, Key{}, 6, time.Time{}, true},
		"a pod of equal priority":                  {known, Key{}, 5, time.Time{}, false},
		"a pod that ends before":                   {known, Key{}, 0, minutes(9), true},
		"a pod that ends at the start":             {known, Key{}, 0, minutes(10), true},
		"a pod that ends after":                    {known, Key{}, 0, minutes(11), false},
		"a pod that does not say when it ends":     {known, Key{}, 0, time.Time{}, false},
		"a pod that ends, where no start is known": {unknown, Key{}, 0, minutes(1), false},
		"a pod in no gang, where none is named":    {Reservation{Priority: 5}, Key{}, 0, time.Time{}, false},
	} {
		if got := tc.r.Exempt(tc.gang, tc.priority, tc.end); got != tc.want {
			t.Errorf("%s: %t, want %t", name, got, tc.want)
		}
	}
	if known.Expired(minutes(59)) || !known.Expired(minutes(60)) || unknown.Expired(minutes(1000)) {
		t.Error("expires at another time than it says")
	}
}

func TestNewReservation(t *testing.T) {
	town := newTown(2, 4, 2)
	town.want(4, []int{5}, whole(2))
	town.put("m0", 0, whole(2))
	town.Members[0].Node = "n0"
	res, rejection := Plan(&town.Problem)
	if !rejection.OK() {
		t.Fatal(rejection.Message())
	}
	r := NewReservation(&town.Problem, res, 5, minutes(1), minutes(2))
	var got []string
	for _, s := range r.Shares {
		for _, p := range s.Pods {
			got = append(got, s.Node+" "+p.UID+" "+p.Name)
		}
		got = append(got, fmt.Sprint(s.Asks))
	}
	slices.Sort(got)
	if diff := cmp.Diff([]string{"[1]", "[2]"}, got[:2]); diff != "" {
		t.Errorf("resources (-want +got)\n%s", diff)
	}
	if len(r.Shares) != 2 || r.Shares[0].Node != "n1" || r.Shares[1].Node != "n2" || len(got) != 5 {
		t.Errorf("kept is %v, want three members on n1 and n2", got)
	}
	town.Min = 3
	few := NewReservation(&town.Problem, res, 5, minutes(1), minutes(2))
	pods := 0
	for _, s := range few.Shares {
		pods += len(s.Pods)
	}
	if pods != 2 {
		t.Errorf("%d members have something kept, want the 2 that the minimum lacks", pods)
	}
	if diff := cmp.Diff(town.Gang, r.Gang); diff != "" || r.Priority != 5 || !r.Start.Equal(minutes(1)) || !r.Expires.Equal(minutes(2)) {
		t.Errorf("%+v", r)
	}
}

// What the gang is to have is not given to others, and nothing else is kept from them.
func TestANodeOfWhichSomeIsKept(t *testing.T) {
	var devices []gpu.Device
	for i := range 4 {
		devices = append(devices, gpu.Device{ID: gpu.ID(fmt.Sprintf("GPU-%d", i)), Index: i, Product: "T", MemoryMiB: 1000})
	}
	migs := gpu.Device{ID: "GPU-4", Index: 4, Product: "T", MemoryMiB: 1000, MIG: true}
	for start := range 7 {
		migs.Instances = append(migs.Instances, gpu.Instance{Profile: "1g.5gb", Start: start, Size: 1})
	}
	for _, start := range []int{0, 4} {
		migs.Instances = append(migs.Instances, gpu.Instance{Profile: "3g.20gb", Start: start, Size: 4})
	}
	inventory := cluster.NewInventory(cluster.SourceSlices, append(devices, migs))
	pod := func(uid, assignment string) cluster.Pod {
		a, err := gpu.ParseAssignment(assignment)
		if err != nil {
			t.Fatal(err)
		}
		return cluster.NewPod(uid, "ns/"+uid, a)
	}
	// For each GPU: free milliGPU/MiB, and for the MIG GPU the places left of the two profiles.
	show := func(n *cluster.Node) string {
		var out []string
		for i := range n.GPUs[:4] {
			out = append(out, fmt.Sprintf("%d/%d", n.GPUs[i].FreeMilliGPU, n.GPUs[i].FreeMemoryMiB))
		}
		var places strings.Builder
		for _, inst := range migs.Instances {
			if n.GPUs[4].Partition.CanGive(inst) {
				places.WriteString(fmt.Sprintf(" %s@%d", inst.Profile[:2], inst.Start))
			}
		}
		return fmt.Sprintf("%s%s, %d idle", strings.Join(out, " "), places.String(), n.Spare().GPUs)
	}
	const small = " 1g@0 1g@1 1g@2 1g@3 1g@4 1g@5 1g@6"
	for name, tc := range map[string]struct {
		holds string // of a pod that leaves before the start
		gang  []string
		want  string
	}{
		"whole GPUs that are idle":                       {"", []string{"c=GPU-1,GPU-2"}, "1000/1000 0/0 0/0 1000/1000" + small + " 3g@0 3g@4, 2 idle"},
		"whole GPUs that another pod holds now":          {"c=GPU-0,GPU-1", []string{"c=GPU-1,GPU-2"}, "0/0 0/0 0/0 1000/1000" + small + " 3g@0 3g@4, 1 idle"},
		"whole, where another pod has a share now":       {"c=GPU-1:300m/300Mi", []string{"c=GPU-1"}, "1000/1000 0/0 1000/1000 1000/1000" + small + " 3g@0 3g@4, 3 idle"},
		"two members on one node":                        {"", []string{"c=GPU-1", "c=GPU-3"}, "1000/1000 0/0 1000/1000 0/0" + small + " 3g@0 3g@4, 2 idle"},
		"a share of a GPU that is idle":                  {"", []string{"c=GPU-1:400m/300Mi"}, "1000/1000 600/700 1000/1000 1000/1000" + small + " 3g@0 3g@4, 3 idle"},
		"a share beside another's":                       {"c=GPU-1:300m/300Mi", []string{"c=GPU-1:400m/300Mi"}, "1000/1000 300/400 1000/1000 1000/1000" + small + " 3g@0 3g@4, 3 idle"},
		"a share of what another gives back":             {"c=GPU-1:700m/300Mi", []string{"c=GPU-1:400m/300Mi"}, "1000/1000 0/400 1000/1000 1000/1000" + small + " 3g@0 3g@4, 3 idle"},
		"a share, where another holds the whole GPU now": {"c=GPU-1", []string{"c=GPU-1:400m/300Mi"}, "1000/1000 0/0 1000/1000 1000/1000" + small + " 3g@0 3g@4, 3 idle"},
		"a MIG instance that is free":                    {"", []string{"c=GPU-4:3g.20gb@0:4"}, "1000/1000 1000/1000 1000/1000 1000/1000 1g@4 1g@5 1g@6 3g@4, 4 idle"},
		"a MIG instance where others are now":            {"c=GPU-4:1g.5gb@0:1,GPU-4:1g.5gb@5:1", []string{"c=GPU-4:3g.20gb@0:4"}, "1000/1000 1000/1000 1000/1000 1000/1000 1g@4 1g@6, 4 idle"},
		"the same MIG instance as another's now":         {"c=GPU-4:1g.5gb@2:1", []string{"c=GPU-4:1g.5gb@2:1"}, "1000/1000 1000/1000 1000/1000 1000/1000 1g@0 1g@1 1g@3 1g@4 1g@5 1g@6 3g@4, 4 idle"},
	} {
		t.Run(name, func(t *testing.T) {
			node := cluster.NewNode("n", inventory, nil)
			if tc.holds != "" {
				node = node.With(pod("x", tc.holds))
			}
			r := Reservation{Shares: []Share{{Node: "m"}, {Node: "n"}}}
			for i, a := range tc.gang {
				r.Shares[1].Pods = append(r.Shares[1].Pods, pod(fmt.Sprintf("m%d", i), a))
			}
			if got := show(r.On(node)); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
	r := Reservation{Shares: []Share{{Node: "n", Pods: []cluster.Pod{cluster.NewPod("m", "ns/m", gpu.Assignment{})}, Asks: []int64{3}}}}
	n, m := cluster.NewNode("n", inventory, nil), cluster.NewNode("m", inventory, nil)
	if r.On(n) != n || r.On(m) != m || r.On(nil) != nil {
		t.Error("a node of which no GPU is kept is another one")
	}
	if got := fmt.Sprint(r.Left("n", []int64{2, 7}), r.Left("m", []int64{2})); got != "[-1 7] [2]" {
		t.Errorf("left %s", got)
	}
	held := n.With(cluster.NewUnplacedPod("u", "ns/u", whole(2)))
	r.Shares[0].Pods[0] = pod("m", "c=GPU-0")
	if got := r.On(held).Spare().GPUs; got != 1 {
		t.Errorf("%d GPUs can be given beside one that is kept and two withheld, want 1", got)
	}
}

// job is a pod of the timeline, in minutes after noon.
type job struct {
	uid          string
	ask          gpu.Request
	arrives, run int // run is what it says
	ends         int // when it really does, once it runs
	early        int // by how much less it runs than it says
}

// timeline runs jobs and one gang, which waits from the beginning, minute by minute. With backfill, jobs that wait behind the
// gang may start as the reservation lets them; without, whenever they fit.
type timeline struct {
	*town
	t        *testing.T
	waiting  []job
	running  []job
	first    time.Time // the gang's start as computed at first
	computed time.Time // and last
	started  int       // jobs that started while the gang waited
	outlive  int       // of them, those that were not to end before its start
}

// step is one minute; it reports whether the gang has started.
func (l *timeline) step(now int, backfill bool) bool {
	l.running = slices.DeleteFunc(l.running, func(j job) bool {
		if j.ends > now {
			return false
		}
		for i := range l.Nodes {
			if n := &l.Nodes[i]; n.Name == l.pods[j.uid].Node {
				n.GPUs = n.GPUs.Without(j.uid)
				n.Free = []int64{n.Free[0] + 1}
			}
		}
		return true
	})
	if _, rejection := Plan(&l.Problem); rejection.OK() {
		return true
	}
	var r Reservation
	if backfill {
		r = l.reserve(now)
	}
	on := map[*cluster.Node]*cluster.Node{}
	l.waiting = slices.DeleteFunc(l.waiting, func(j job) bool {
		if j.arrives > now {
			return false
		}
		exempt := !backfill || r.Exempt(Key{}, 5, minutes(now+j.run))
		for i := range l.Nodes {
			n := &l.Nodes[i]
			seen, left := n.GPUs, n.Free
			if !exempt {
				if on[n.GPUs] == nil {
					on[n.GPUs] = r.On(n.GPUs)
					l.checkOn(&r, n.GPUs, on[n.GPUs])
				}
				seen, left = on[n.GPUs], r.Left(n.Name, n.Free)
			}
			a, err := fit.Assign(seen, j.ask, fit.CPU{}, nil)
			if err != nil || left[0] < 1 {
				continue
			}
			pod := cluster.NewPod(j.uid, "ns/"+j.uid, a)
			if err := n.GPUs.CanGive(pod); err != nil {
				l.t.Fatalf("minute %d: %s: %v", now, j.uid, err)
			}
			n.GPUs, n.Free = n.GPUs.With(pod), []int64{n.Free[0] - 1}
			l.pods[j.uid] = Occupant{UID: j.uid, Node: n.Name, Frees: []int64{1}}
			j.ends = now + j.run - j.early
			l.running = append(l.running, j)
			if l.started++; minutes(now + j.run).After(r.Start) {
				l.outlive++
			}
			return true
		}
		return false
	})
	return false
}

// reserve computes the gang's start anew. It never moves to later.
func (l *timeline) reserve(now int) Reservation {
	var running []Running
	for _, j := range l.running {
		running = append(running, l.town.running(j.uid, j.ends+j.early))
	}
	start, res, ok := Start(&l.Problem, running, minutes(now))
	if !ok {
		l.t.Fatalf("minute %d: no start, though all ends are known", now)
	}
	if l.first.IsZero() {
		l.first = start
	} else if start.After(l.computed) {
		l.t.Fatalf("minute %d: the start moved from %s to %s", now, l.computed, start)
	}
	l.computed = start
	return NewReservation(&l.Problem, res, 5, start, time.Time{})
}

// checkOn checks that GPUs which are not kept look as they do.
func (l *timeline) checkOn(r *Reservation, before, after *cluster.Node) {
	kept := map[gpu.ID]bool{}
	if s := r.share(before.Name); s != nil {
		for _, p := range s.Pods {
			for _, u := range p.Uses() {
				kept[u.GPU] = true
			}
		}
	}
	for i := range before.GPUs {
		b, a := &before.GPUs[i], &after.GPUs[i]
		if same := b.Idle == a.Idle && b.FreeMilliGPU == a.FreeMilliGPU && b.FreeMemoryMiB == a.FreeMemoryMiB; !same && !kept[b.ID] {
			l.t.Fatalf("%s of %s changes and is not kept", b.ID, before.Name)
		}
	}
}

// newTimeline is a crowded cluster, a gang that waits, and jobs that come after it.
func newTimeline(t *testing.T, seed uint64, punctual bool) *timeline {
	r := rand.New(rand.NewPCG(4, seed))
	sizes := make([]int, 2+r.IntN(4))
	for i := range sizes {
		sizes[i] = 2 + r.IntN(3)
	}
	l := &timeline{town: newTown(sizes...), t: t}
	for i := range l.Nodes {
		l.Nodes[i].Free = []int64{int64(sizes[i] + r.IntN(3))}
	}
	some := func() gpu.Request {
		if r.IntN(3) == 0 {
			return share(int64(250 * (1 + r.IntN(3))))
		}
		return whole(1 + r.IntN(2))
	}
	newJob := func(arrives int) job {
		j := job{uid: fmt.Sprintf("j%d", len(l.running)+len(l.waiting)), ask: some(), arrives: arrives, run: 1 + r.IntN(30)}
		if !punctual {
			j.early = r.IntN(j.run)
		}
		return j
	}
	for range 40 {
		if j := newJob(0); l.put(j.uid, r.IntN(len(sizes)), j.ask) {
			j.ends = max(1, j.run-j.early)
			j.early = j.run - j.ends
			l.running = append(l.running, j)
		}
	}
	for minute := 0; minute < 60; minute += r.IntN(3) {
		l.waiting = append(l.waiting, newJob(minute))
	}
	ask := whole(2)
	if r.IntN(4) == 0 {
		ask = share(500)
	}
	// As large as the empty cluster can take, or a little less.
	empty := 0
	for i, size := range sizes {
		count := size / 2
		if ask.MilliGPU() == 500 {
			count = 2 * size
		}
		cores := int(l.Nodes[i].Free[0])
		for _, o := range l.pods {
			if o.Node == l.Nodes[i].Name {
				cores++
			}
		}
		empty += min(count, cores)
	}
	members := max(1, empty-r.IntN(2))
	l.want(members, []int{members}, ask)
	return l
}

// With backfill a gang starts no later than was computed when it began to wait, and others run before it all the same. Without
// the reservation it would not be so.
func TestBackfillNeverDelaysTheGang(t *testing.T) {
	for name, punctual := range map[string]bool{"jobs end when they say": true, "jobs end when they say, or before": false} {
		t.Run(name, func(t *testing.T) {
			started, outlive, delayed, waited := 0, 0, 0, 0
			for seed := range uint64(60) {
				l := newTimeline(t, seed, punctual)
				now := 0
				for ; !l.step(now, true); now++ {
				}
				if l.first.IsZero() {
					continue // it had room at once
				}
				waited++
				if minutes(now).After(l.first) {
					t.Fatalf("sequence %d: starts at minute %d, was to start at %s", seed, now, l.first)
				}
				started, outlive = started+l.started, outlive+l.outlive
				greedy := newTimeline(t, seed, punctual)
				for now = 0; now < 1000 && !greedy.step(now, false); now++ {
				}
				if minutes(now).After(l.first) {
					delayed++
				}
			}
			t.Logf("%d gangs waited and none was delayed; %d jobs started before them, %d to end after their start; without reservations %d would have been delayed",
				waited, started, outlive, delayed)
			if waited < 40 || started == 0 || outlive == 0 || delayed == 0 {
				t.Error("the sequences show nothing")
			}
		})
	}
}
