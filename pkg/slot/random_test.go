package slot

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
)

// TestRandomLivesOfANode lets a node live: pods come, start, restart, end and are deleted by force, some of them forged; the kubelet
// restarts and loses its checkpoint, the API server's news are late, the agent restarts and loses its book, GPUs fail, vanish and return.
// After every step it checks what must hold always, and at the end that nothing is left over.
func TestRandomLivesOfANode(t *testing.T) {
	const seeds = 24
	total := map[string]int{}
	for seed := range uint64(seeds) {
		w := newWorld(t, seed)
		for i := range 400 {
			w.step()
			w.check()
			if i%4 == 0 {
				w.checkStates()
			}
		}
		w.drain()
		for what, n := range w.count {
			total[what] += n
		}
	}
	t.Log(total)
	for _, what := range []string{
		"started", "restarted", "started in calm", "refused forged", "refused", "two owners", "owner without checkpoint", "released", "kept by grace",
		"recovered", "allocated anew", "name reused", "slot beyond", "kept missing",
	} {
		if total[what] == 0 {
			t.Errorf("it never came to: %s", what)
		}
	}
}

// world is everything around the book, and what is true in it.
type world struct {
	t    *testing.T
	r    *rand.Rand
	log  []string
	now  time.Time
	used map[string]int // how often a pod's name was used

	devices []gpu.Device
	away    []gpu.Device

	// api are the pods that the API server has, by UID; seen is what the agent has seen of them, and when it was so; past is an earlier
	// seen.
	api    map[string]*modelPod
	seen   map[string]Pod
	seenAt time.Time
	past   map[string]Pod
	pastAt time.Time

	kubelet modelKubelet
	// readable and answering say whether the agent can read the kubelet's checkpoint and its PodResources.
	readable, answering bool

	book Book
	lost bool

	// given is what containers were given, by UID and then container and resource.
	given map[string]map[string]Holder
	// names says who was bound to a name first.
	names  map[string]string
	serial int
	count  map[string]int
}

// modelPod is a pod of the API server.
type modelPod struct {
	Pod
	containers []modelContainer
	// forged says that no scheduler chose its assignment.
	forged bool
}

type modelContainer struct {
	name string
	// init containers end before those after them start.
	init  bool
	needs map[Resource]int
}

// modelKubelet is as the kubelet's device manager: what it has in memory, and what is on its disk, which it writes after an Allocate only.
type modelKubelet struct {
	pods  []string
	ready bool
	devs  map[string]map[string]map[Resource]hold
	disk  []Claim
	// healthy are the slots that the agent advertised last.
	healthy map[Resource]map[string]bool
	// forgot says that it lost what running pods hold.
	forgot bool
}

type hold struct {
	slots []string
	name  string
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{
		t: t, r: rand.New(rand.NewPCG(seed, 3)), now: start, used: map[string]int{},
		devices: []gpu.Device{plain(0), plain(1), partitioned(2, onDemand(t, "A30-24GB")...)},
		api:     map[string]*modelPod{}, seen: map[string]Pod{}, seenAt: start, past: map[string]Pod{}, pastAt: start,
		kubelet:  modelKubelet{ready: true, devs: map[string]map[string]map[Resource]hold{}, disk: []Claim{}},
		readable: true, answering: true, given: map[string]map[string]Holder{}, names: map[string]string{}, count: map[string]int{},
	}
	w.log = append(w.log, fmt.Sprintf("seed %d", seed))
	w.advertise()
	return w
}

func (w *world) say(format string, args ...any) { w.log = append(w.log, fmt.Sprintf(format, args...)) }

func (w *world) fatalf(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("%s\nafter\n%s", fmt.Sprintf(format, args...), strings.Join(w.log[max(0, len(w.log)-60):], "\n"))
}

func pick[T any](w *world, list []T) T { return list[w.r.IntN(len(list))] }

// live are the UIDs of the pods that are not over.
func (w *world) live() []string {
	var out []string
	for _, uid := range slices.Sorted(maps.Keys(w.api)) {
		if !w.api[uid].Over {
			out = append(out, uid)
		}
	}
	return out
}

func (w *world) step() {
	w.now = w.now.Add(time.Duration(w.r.IntN(8000)) * time.Millisecond)
	if w.now.Sub(w.seenAt) > Grace/2 {
		w.catchUp()
	}
	w.readable, w.answering = w.readable || w.r.IntN(6) == 0, w.answering || w.r.IntN(6) == 0
	live := w.live()
	switch n := w.r.IntN(100); {
	case n < 14:
		w.create()
	case n < 28:
		w.syncKubelet()
	case n < 58:
		w.startSomeContainer()
	case n < 64 && len(live) > 0:
		w.end(pick(w, live))
	case n < 70 && len(live) > 0:
		uid := pick(w, live)
		w.say("%s is deleted by force", uid)
		delete(w.api, uid)
		delete(w.given, uid)
	case n < 73 && len(w.api) > 0:
		for _, uid := range slices.Sorted(maps.Keys(w.api)) {
			if w.api[uid].Over && w.r.IntN(2) == 0 {
				w.say("%s is deleted", uid)
				delete(w.api, uid)
			}
		}
	case n < 81:
		w.catchUp()
	case n < 86:
		w.collect()
	case n < 87:
		w.restartKubelet()
	case n < 88:
		w.say("the kubelet's checkpoint is removed")
		w.kubelet.disk = nil
	case n < 90:
		w.say("the kubelet's checkpoint cannot be read")
		w.readable = false
	case n < 92:
		w.say("PodResources does not answer")
		w.answering = false
	case n < 94:
		w.restartAgent()
	case n < 95:
		w.say("the agent loses its book")
		w.book, w.lost = Book{}, true
	case n < 97:
		w.changeDevices()
		w.advertise()
	case n < 99 && len(live) > 0:
		p := w.api[pick(w, live)]
		other := strings.NewReplacer("g0", "g1", "g1", "g0").Replace(p.Assignment.String())
		w.say("somebody writes %q over %q of %s", other, p.Assignment, p.UID)
		p.Assignment, p.forged = parse(w.t, other), true
	default:
		w.advertise()
	}
}

func (w *world) inventory() cluster.Inventory {
	return cluster.NewInventory(cluster.SourceSlices, w.devices)
}

// design is a random pod that the condition accepts: its assignment, and the containers that ask for what it gives.
func (w *world) design(accept func(gpu.Assignment) bool) (gpu.Assignment, []modelContainer, bool) {
	for range 30 {
		p := 5 * (1 + w.r.IntN(8))
		a, b := w.r.IntN(2), w.r.IntN(2)
		share := func(gpu, percent int) string { return fmt.Sprintf("g%d:%dm/%dMi", gpu, 10*percent, 10*percent) }
		instance := pick(w, []string{"g2:1g.6gb@0:1", "g2:1g.6gb@1:1", "g2:1g.6gb@3:1", "g2:2g.12gb@2:2", "g2:1g.6gb+me@2:1", "g2:1g.6gb+me@3:1"})
		text := pick(w, []string{
			"main=" + share(a, p),
			"~setup=" + share(a, p) + ";main=" + share(a, p),   // the same slots
			"~setup=" + share(a, 2*p) + ";main=" + share(a, p), // some of them
			"~setup=" + share(a, p) + ";main=" + share(a, 2*p), // and some more
			"~setup=" + share(a, p) + ";~warm=" + share(a, p) + ";main=" + share(a, p),
			"~setup=" + share(a, p) + ";side=" + share(a, p) + ";main=" + share(b, p),
			"left=" + share(a, p) + ";right=" + share(b, 10),
			"main=" + share(0, p) + "," + share(1, p), // counted once
			fmt.Sprintf("main=g%d", a), fmt.Sprintf("~setup=g%d;main=g%d", a, a), "main=g0,g1", "~setup=g0,g1;main=g1",
			"main=" + instance, "~setup=" + instance + ";main=" + instance, "main=g0," + instance,
		})
		assignment := parse(w.t, text)
		if !accept(assignment) {
			continue
		}
		var containers []modelContainer
		for _, c := range assignment.Containers {
			m := modelContainer{name: c.Container, init: c.Init, needs: map[Resource]int{}}
			for _, g := range c.Grants {
				switch g.Kind() {
				case gpu.Shared:
					m.needs[shares] = int(g.MilliGPU / 10)
				case gpu.MIG:
					m.needs[profile(g.Instance.Profile)]++
				default:
					m.needs[whole]++
				}
			}
			containers = append(containers, m)
		}
		return assignment, containers, true
	}
	return gpu.Assignment{}, nil, false
}

// create makes a pod, with what a scheduler would assign to it or what somebody forged. Names are used again.
func (w *world) create() {
	forged := w.r.IntN(12) == 0
	held := []cluster.Pod{}
	for _, uid := range w.live() {
		if p := w.api[uid]; !p.forged && p.Err == nil {
			held = append(held, cluster.NewPod(uid, p.Name, p.Assignment))
		}
	}
	node := cluster.NewNode("node-a", w.inventory(), held)
	w.serial++
	uid := fmt.Sprintf("u%04d", w.serial)
	a, containers, ok := w.design(func(a gpu.Assignment) bool { return forged || node.CanGive(cluster.NewPod(uid, "new", a)) == nil })
	name := fmt.Sprintf("pod-%d", w.r.IntN(8))
	for _, other := range w.api {
		ok = ok && other.Name != name
	}
	if !ok {
		return
	}
	if w.used[name]++; w.used[name] > 1 {
		w.count["name reused"]++
	}
	p := &modelPod{Pod: Pod{UID: uid, Namespace: "ns", Name: name, Assignment: a}, containers: containers, forged: forged}
	if forged && w.r.IntN(3) == 0 {
		p.Assignment, p.Err = gpu.Assignment{}, errors.New("no annotation")
	}
	w.say("%s is created as %s with %q, forged %t", uid, name, a, forged)
	w.api[uid] = p
}

func (w *world) end(uid string) {
	w.say("%s is over", uid)
	w.api[uid].Over = true
	delete(w.given, uid)
}

func (w *world) catchUp() {
	w.past, w.pastAt = w.seen, w.seenAt
	w.seen = map[string]Pod{}
	for uid, p := range w.api {
		w.seen[uid] = p.Pod
	}
	w.seenAt = w.now
}

func (w *world) changeDevices() {
	switch i := w.r.IntN(4); {
	case i == 0 && len(w.devices) > 1:
		n := w.r.IntN(len(w.devices))
		w.say("%s vanishes", w.devices[n].ID)
		w.away = append(w.away, w.devices[n])
		w.devices = slices.Delete(slices.Clone(w.devices), n, n+1)
	case i == 1 && len(w.away) > 0:
		w.say("%s returns", w.away[0].ID)
		w.devices = append(slices.Clone(w.devices), w.away[0])
		w.away = w.away[1:]
	default:
		w.devices = slices.Clone(w.devices)
		d := &w.devices[w.r.IntN(len(w.devices))]
		d.Unhealthy = !d.Unhealthy
		w.say("%s is unhealthy: %t", d.ID, d.Unhealthy)
	}
}

func (w *world) advertise() {
	w.kubelet.healthy = map[Resource]map[string]bool{}
	for _, o := range Offers(w.devices, false) {
		w.kubelet.healthy[o.Resource] = w.book.States(o, w.devices, false)
	}
}

func (w *world) restartAgent() {
	data, err := w.book.Encode()
	if err != nil {
		w.fatalf("%v", err)
	}
	again, err := Decode(data)
	if err != nil {
		w.fatalf("the agent cannot read its own book: %v", err)
	}
	if diff := cmp.Diff(w.book, again); diff != "" && len(w.book.Records) > 0 {
		w.fatalf("the book after a restart (-before +after)\n%s", diff)
	}
	w.book = again
	// The first list of the API server's pods can be an old one. Who lost the book, too, or finds that the kubelet forgot, knows too little.
	if !w.lost && !w.kubelet.forgot && w.now.Sub(w.pastAt) < Grace/2 {
		w.seen, w.seenAt = w.past, w.pastAt
		w.say("the agent restarts, and is told of pods as they were")
	}
}

// told is what the agent hears from the kubelet.
func (w *world) told() Kubelet {
	var k Kubelet
	if w.readable {
		k.Checkpoint = w.kubelet.disk
	}
	if w.answering {
		k.Active = w.kubelet.active(w.api)
	}
	return k
}

func (w *world) calm() bool {
	for uid, p := range w.api {
		s, ok := w.seen[uid]
		if p.forged || !ok || s.Over != p.Over || s.Assignment.String() != p.Assignment.String() {
			return false
		}
	}
	vanished := func(r Record) bool { // it is waited for, as its slots are in the kubelet's checkpoint yet
		return !r.Missing.IsZero() && slices.ContainsFunc(w.kubelet.disk, func(c Claim) bool { return c.Name == r.Name })
	}
	return len(w.seen) == len(w.api) && !slices.ContainsFunc(w.book.Records, vanished) && w.readable && w.answering && w.kubelet.ready && w.kubelet.disk != nil && !w.lost
}

func (w *world) rebuild(k Kubelet) bool {
	if !w.lost {
		return true
	}
	if k.Checkpoint == nil {
		return false
	}
	w.catchUp() // what the API server says now
	w.book = w.book.Recover(k, w.seen, w.now)
	w.lost = false
	w.say("the book is recovered: %v", w.book.Records)
	for uid := range w.given {
		known := slices.ContainsFunc(k.Checkpoint, func(c Claim) bool { return c.UID == uid })
		if known && !w.kubelet.forgot && !w.api[uid].forged && !w.book.Holds(uid) {
			w.fatalf("pod %s is not recovered", uid)
		}
		text, _ := w.book.assignment(uid)
		if slices.ContainsFunc(slices.Collect(maps.Values(w.given[uid])), func(h Holder) bool { return h.Assignment != text }) {
			delete(w.given, uid) // nobody knows any more
		} else {
			w.count["recovered"]++
		}
	}
	return true
}

func (w *world) reconcile(k Kubelet) {
	book, released := w.book.Reconcile(k, w.seen, w.now)
	w.count["released"] += len(released)
	for _, r := range released {
		w.say("released %s of %+v", r.Name, r.Holder)
	}
	w.book = book
}

// collect is what the agent does now and then. When it knows everything, what is left belongs to live pods or is young.
func (w *world) collect() {
	k := w.told()
	if !w.rebuild(k) {
		return
	}
	w.reconcile(k)
	if len(w.seen) != len(w.api) || !w.calm() && k.Checkpoint == nil {
		return
	}
	for _, r := range w.book.Records {
		uid := ""
		if r.Holder != nil {
			uid = r.Holder.UID
		}
		for _, c := range k.Checkpoint {
			if c.Name == r.Name {
				uid = c.UID
			}
		}
		s, ok := w.seen[uid]
		switch {
		case ok && !s.Over:
		case r.Holder == nil && w.now.Sub(r.Allocated) < Grace && !s.Over:
			w.count["kept by grace"]++
		case r.Holder != nil && !ok && k.Active == nil:
		case r.Holder != nil && !ok && (r.Missing.IsZero() || w.now.Sub(r.Missing) < Grace):
			w.count["kept missing"]++
		default:
			w.fatalf("record %+v, holder %+v, belongs to nobody", r, r.Holder)
		}
	}
}
