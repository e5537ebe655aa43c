package devicemanager

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"

	"weft.sh/weft/pkg/deviceplugin"
	"weft.sh/weft/pkg/slot"
)

// world is what decides which GPUs pods get, on both sides of the kubelet.
type world interface {
	// offers is what the node gives out, sick the same with slots that are unhealthy, nil where that cannot happen.
	offers() map[slot.Resource]map[string]bool
	sick(r *rand.Rand) map[slot.Resource]map[string]bool
	// handler is the handler of an agent that starts.
	handler(n *node, claims func(context.Context) slot.Kubelet) deviceplugin.Handler
	// assign is the scheduler: it reports whether the pod is bound to the node.
	assign(n *node, p *v1.Pod) bool
	// started checks what a container got that was started.
	started(p *pod, c v1.Container, devices []string)
	// verify checks the whole. At the end of a sequence nothing is under way.
	verify(n *node, end bool)
}

// recorded is a world without GPUs: it checks that PreStart is told who starts.
type recorded struct {
	t testing.TB
	memory
}

func (r *recorded) offers() map[slot.Resource]map[string]bool { return dgx }

func (r *recorded) sick(random *rand.Rand) map[slot.Resource]map[string]bool {
	out := offers(map[slot.Resource]int{shared: 800, whole: 8, mig: 7})
	for resource, slots := range out {
		for i := range len(slots) {
			slots[resource.Slot(i)] = random.IntN(4) > 0
		}
	}
	return out
}

func (r *recorded) assign(*node, *v1.Pod) bool { return true }

func (r *recorded) started(p *pod, c v1.Container, devices []string) {
	r.t.Helper()
	starts := r.take()
	if len(starts) != len(asks(c)) || len(devices) != len(starts) {
		r.t.Errorf("%d PreStarts and the CDI devices %q for a container with %d resources", len(starts), devices, len(asks(c)))
	}
	for _, s := range starts {
		told := false
		for _, o := range s.owners {
			told = told || o.Container == c.Name
			if o.UID != string(p.UID) || o.Pod != "" && o.Pod != p.Name {
				r.t.Errorf("PreStart of %s/%s was told of %+v", p.UID, c.Name, o)
			}
		}
		if s.err != nil || !told {
			r.t.Errorf("PreStart of %s/%s was told of %+v, error %v", p.UID, c.Name, s.owners, s.err)
		}
	}
}

func (r *recorded) verify(*node, bool) {}

// sequence is one random life of a node.
type sequence struct {
	t     testing.TB
	r     *rand.Rand
	w     world
	n     *node
	trace []string
}

func (s *sequence) note(format string, args ...any) {
	s.trace = append(s.trace, fmt.Sprintf(format, args...))
}

// randomSpec is a pod with up to two init containers and up to two others.
func (s *sequence) randomSpec() spec {
	ask := func(name string) v1.Container {
		switch s.r.IntN(6) {
		case 0:
			return container(name, whole, 1+s.r.IntN(2))
		case 1:
			return container(name, mig, 1+s.r.IntN(2))
		case 2:
			return container(name, shared, 0)
		default:
			return container(name, shared, 10*(1+s.r.IntN(6)))
		}
	}
	var out spec
	for i := range s.r.IntN(3) * s.r.IntN(2) {
		c := ask(fmt.Sprintf("init-%d", i))
		if s.r.IntN(3) == 0 {
			c = sidecar(c)
		}
		out.init = append(out.init, c)
	}
	for i := range 1 + s.r.IntN(2) {
		out.main = append(out.main, ask(fmt.Sprintf("main-%d", i)))
	}
	return out
}

// create brings a pod to the node if the scheduler binds it there. It reports whether the kubelet wrote its checkpoint.
func (s *sequence) create() bool {
	what := s.randomSpec()
	p := s.n.newPod(what)
	if !s.w.assign(s.n, p.Pod) {
		return false
	}
	err := s.n.admit(p)
	s.note("create %s: %v", p.UID, err)
	amount := 0
	for _, c := range p.containers() {
		amount += len(asks(c))
	}
	return err == nil && amount > 0
}

// start starts the next container of a pod, or one of its containers again.
func (s *sequence) start() {
	all := s.n.sorted()
	if len(all) == 0 {
		return
	}
	p := all[s.r.IntN(len(all))]
	containers := p.containers()
	i := p.next
	if i == len(containers) || i > 0 && s.r.IntN(4) == 0 {
		// An init container does not start again once another has.
		if i = s.r.IntN(i); p.isInit(containers[i].Name) && i != p.next-1 {
			return
		}
	}
	c := containers[i]
	devices, err := s.n.start(p, c.Name)
	s.note("start %s/%s: %q, %v", p.UID, c.Name, devices, err)
	if err != nil {
		s.t.Errorf("starting %s/%s: %v", p.UID, c.Name, err)
		return
	}
	p.next = max(p.next, i+1)
	if i > 0 && p.isInit(containers[i-1].Name) {
		delete(p.up, containers[i-1].Name)
	}
	s.w.started(p, c, devices)
}

// step is one random event. It reports whether the kubelet wrote its checkpoint.
func (s *sequence) step() bool {
	switch k := s.r.IntN(21); {
	case k < 6:
		return s.create()
	case k < 13:
		s.start()
	case k < 17:
		if all := s.n.sorted(); len(all) > 0 {
			p := all[s.r.IntN(len(all))]
			s.note("delete %s", p.UID)
			s.n.delete(p)
		}
	case k == 17:
		s.note("restart the agent")
		s.n.stopAgent()
		s.n.startAgent()
	case k == 18:
		s.note("start another agent, end the first")
		old := s.n.agent
		s.n.startAgent()
		old.stop()
	case k == 19:
		offers := s.w.sick(s.r)
		if offers == nil || s.r.IntN(2) == 0 {
			offers = s.w.offers()
		}
		s.note("change the health of slots")
		s.n.offers = offers
		s.n.agent.manager.Set(offers)
		s.n.settle()
	default:
		podsFirst := s.r.IntN(2) == 0
		s.n.kubelet.stop(s.t)
		rejected := s.n.returnKubelet(podsFirst)
		s.note("restart the kubelet, pods first %v: %d pods rejected", podsFirst, len(rejected))
	}
	return false
}

// TestRandomLives runs nodes through random events and checks after each that what the kubelet says and what the pods have is one.
func TestRandomLives(t *testing.T) {
	runRandomLives(t, 50, func(t testing.TB) world { return &recorded{t: t} })
}

func runRandomLives(t *testing.T, seeds int, makeWorld func(testing.TB) world) {
	if testing.Short() {
		seeds /= 10
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := makeWorld(t)
			s := &sequence{t: t, r: rand.New(rand.NewPCG(uint64(seed), 0)), w: w}
			s.n = newNode(t, w.offers(), w.handler)
			for range 15 {
				exact := s.step()
				s.n.check(exact)
				w.verify(s.n, false)
				if t.Failed() {
					t.Fatalf("after:\n%s", strings.Join(s.trace, "\n"))
				}
			}
			s.n.offers = w.offers()
			s.n.agent.manager.Set(s.n.offers)
			s.n.settle()
			for _, p := range s.n.sorted() {
				if s.r.IntN(2) == 0 {
					s.n.delete(p)
				}
			}
			// The next pod makes the kubelet forget those that are gone.
			last := s.n.newPod(spec{main: []v1.Container{container("main", shared, 1)}})
			if w.assign(s.n, last.Pod) {
				if err := s.n.admit(last); err != nil {
					t.Error(err)
				}
				s.n.check(true)
			}
			w.verify(s.n, true)
			if t.Failed() {
				t.Fatalf("at the end, after:\n%s", strings.Join(s.trace, "\n"))
			}
		})
	}
}
