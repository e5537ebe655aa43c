package slot

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
)

// TestGolden runs the scenarios of testdata/scenarios. Regenerate with -rewrite and read the difference.
//
//	node GPU[=sick|mig]...                           what the node has now; a GPU in MIG mode offers what an A30 does
//	pod NAME uid=UID gpus=ASSIGNMENT|none            the API server has the pod (ASSIGNMENT in quotes, with ' for =)
//	over UID, delete UID                             the pod ends; the API server no longer has it
//	allocate UID/CONTAINER [init] slots=SLOTS name=NAME    the kubelet asks for slots for a container, and is answered NAME
//	kubelet [checkpoint=lost|unreadable|fine] [lists=nothing|silent|fine]  what the agent can learn from the kubelet from now on;
//	                                                 a kubelet that has lost its checkpoint knows nothing, until it allocates anew
//	start slots=SLOTS                                the kubelet is about to start the container that holds them
//	collect                                          the agent looks who is gone
//	agent lost-book                                  the agent starts without its book
//	slots                                            what the kubelet is told of the slots
//
// SLOTS are a resource and numbers: share:0-24. Every command takes at=DURATION, after the start of the scenario. What changes in the
// book is printed.
func TestGolden(t *testing.T) {
	datadriven.Walk(t, "testdata/scenarios", func(t *testing.T, path string) {
		s := scenario{now: start, pods: map[string]Pod{}, kubelet: Kubelet{Checkpoint: []Claim{}}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			text := func(key string) (v string) { d.MaybeScanArgs(t, key, &v); return v }
			if after := text("at"); after != "" {
				duration, err := time.ParseDuration(after)
				if err != nil {
					d.Fatalf(t, "at: %v", err)
				}
				s.now = start.Add(duration)
			}
			return s.run(t, d, text)
		})
	})
}

// scenario is a node as the agent sees it.
type scenario struct {
	now     time.Time
	devices []gpu.Device
	pods    map[string]Pod
	// kubelet is its checkpoint; inits are the init containers in it. The others say what the agent can learn of it.
	kubelet                     Kubelet
	inits                       []string
	unreadable, silent, nothing bool
	book                        Book
	// shown are the records as they were printed last.
	shown map[string]string
}

func (s *scenario) run(t *testing.T, d *datadriven.TestData, text func(string) string) string {
	first := ""
	if len(d.CmdArgs) > 0 {
		first = d.CmdArgs[0].Key
	}
	switch d.Cmd {
	case "node":
		s.devices = nil
		for _, arg := range d.CmdArgs {
			if arg.Key == "at" {
				continue
			}
			index, err := strconv.Atoi(strings.TrimPrefix(arg.Key, "g"))
			if err != nil {
				d.Fatalf(t, "%v", err)
			}
			device := plain(index)
			if slices.Contains(arg.Vals, "mig") {
				device = partitioned(index, onDemand(t, "A30-24GB")...)
			}
			device.Unhealthy = slices.Contains(arg.Vals, "sick")
			s.devices = append(s.devices, device)
		}
		return s.slots()
	case "slots":
		return s.slots()
	case "pod":
		p := Pod{UID: text("uid"), Namespace: "ns", Name: first}
		if gpus := strings.ReplaceAll(text("gpus"), "'", "="); gpus == "none" {
			p.Err = fmt.Errorf("the pod has no annotation weft.sh/gpus")
		} else {
			p.Assignment = parse(t, gpus)
		}
		s.pods[p.UID] = p
		return ""
	case "over":
		p := s.pods[first]
		p.Over = true
		s.pods[first] = p
		return ""
	case "delete":
		delete(s.pods, first)
		return ""
	case "allocate":
		return s.allocate(t, d, first, text)
	case "kubelet":
		switch text("checkpoint") {
		case "lost":
			s.kubelet.Checkpoint = []Claim{}
		case "unreadable":
			s.unreadable = true
		case "fine":
			s.unreadable = false
		}
		if lists := text("lists"); lists != "" {
			s.nothing, s.silent = lists == "nothing", lists == "silent"
		}
		return ""
	case "agent":
		s.book = Book{}.Recover(s.say(), s.pods, s.now)
		return s.show()
	case "collect":
		return s.reconcile() + s.show()
	case "start":
		r, slots := s.parseSlots(t, text("slots"))
		return s.start(r, slots) + s.show()
	}
	d.Fatalf(t, "unknown command %q", d.Cmd)
	return ""
}

func (s *scenario) parseSlots(t *testing.T, text string) (Resource, []string) {
	name, numbers, _ := strings.Cut(text, ":")
	r := profile(name)
	switch name {
	case "gpu":
		r = whole
	case "share":
		r = shares
	}
	from, to, several := strings.Cut(numbers, "-")
	if !several {
		to = from
	}
	a, err1 := strconv.Atoi(from)
	b, err2 := strconv.Atoi(to)
	if err1 != nil || err2 != nil {
		t.Fatalf("slots %q", text)
	}
	slots := slotsOf(r, a, b)
	slices.Sort(slots)
	return r, slots
}

// allocate is the kubelet asking and, with the answer, writing its checkpoint: without the pods that are no more.
func (s *scenario) allocate(t *testing.T, d *datadriven.TestData, who string, text func(string) string) string {
	uid, container, _ := strings.Cut(who, "/")
	r, slots := s.parseSlots(t, text("slots"))
	s.kubelet.Checkpoint = slices.DeleteFunc(s.kubelet.Checkpoint, func(c Claim) bool {
		p, ok := s.pods[c.UID]
		return !ok || p.Over
	})
	s.kubelet.Checkpoint = append(s.kubelet.Checkpoint, Claim{UID: uid, Container: container, Resource: r, Slots: slots, Name: text("name")})
	if d.HasArg("init") {
		s.inits = append(s.inits, who)
	}
	s.book = s.book.With(Record{Name: text("name"), Resource: r, Slots: slots, Allocated: s.now})
	return s.show()
}

// say is what the agent can learn from the kubelet now.
func (s *scenario) say() Kubelet {
	k := Kubelet{Checkpoint: s.kubelet.Checkpoint, Active: []Claim{}}
	for _, c := range k.Checkpoint {
		p, ok := s.pods[c.UID]
		if ok && !p.Over && !slices.Contains(s.inits, c.UID+"/"+c.Container) {
			k.Active = append(k.Active, Claim{Namespace: p.Namespace, Pod: p.Name, Container: c.Container, Resource: c.Resource, Slots: c.Slots})
		}
	}
	if s.unreadable {
		k.Checkpoint = nil
	}
	if s.nothing {
		k.Active = []Claim{}
	}
	if s.silent {
		k.Active = nil
	}
	return k
}

func (s *scenario) reconcile() string {
	var out strings.Builder
	book, released := s.book.Reconcile(s.say(), s.pods, s.now)
	for _, r := range released {
		fmt.Fprintf(&out, "released %s\n", r.Name)
	}
	s.book = book
	return out.String()
}

// start is what the agent does before a container starts.
func (s *scenario) start(r Resource, slots []string) string {
	out := s.reconcile()
	owners, err := s.book.Owners(r, slots, s.say())
	if err != nil {
		return out + fmt.Sprintf("refused: %v\n", err)
	}
	for _, o := range owners {
		p, ok := o.In(s.pods)
		if !ok {
			out += fmt.Sprintf("%s: the pod of %+v is not known\n", o.Name, o)
			continue
		}
		h, err := s.book.Decide("node-a", cluster.NewInventory(cluster.SourceSlices, s.devices), p, o.Container, r, len(slots), s.now)
		if err != nil {
			out += fmt.Sprintf("%s: %s/%s is refused: %v\n", o.Name, p.Name, o.Container, err)
			continue
		}
		out += fmt.Sprintf("%s: %s/%s gets %v\n", o.Name, p.Name, o.Container, h.Grants)
		s.book = s.book.Bind(o.Name, h)
	}
	return out
}

// show prints what has changed in the book.
func (s *scenario) show() string {
	var out strings.Builder
	now := map[string]string{}
	for _, r := range s.book.Records {
		line := fmt.Sprintf("%s: %s", r.Name, ranges(r.Resource, r.Slots))
		if h := r.Holder; h == nil {
			line += fmt.Sprintf(" allocated at %v", r.Allocated.Sub(start))
		} else {
			line += fmt.Sprintf(" bound to %s/%s (%s) with %v since %v", h.Pod, h.Container, h.UID, h.Grants, h.Bound.Sub(start))
		}
		if !r.Missing.IsZero() {
			line += fmt.Sprintf(", missing since %v", r.Missing.Sub(start))
		}
		now[r.Name] = line
		if s.shown[r.Name] != line {
			fmt.Fprintln(&out, line)
		}
	}
	same := maps.Equal(s.shown, now)
	s.shown = now
	if same {
		return "no change\n"
	}
	return out.String()
}

// slots prints the states of all slots.
func (s *scenario) slots() string {
	var out strings.Builder
	for _, o := range Offers(s.devices, false) {
		healthy, unhealthy := []string{}, []string{}
		for _, slot := range slices.Sorted(maps.Keys(s.book.States(o, s.devices, false))) {
			if s.book.States(o, s.devices, false)[slot] {
				healthy = append(healthy, slot)
			} else {
				unhealthy = append(unhealthy, slot)
			}
		}
		fmt.Fprintf(&out, "%s healthy, unhealthy: %s\n", ranges(o.Resource, healthy), ranges(o.Resource, unhealthy))
	}
	return out.String()
}

// ranges prints slots by their numbers: "share 0-24,30".
func ranges(r Resource, slots []string) string {
	var numbers []int
	for _, s := range slots {
		n, _ := strconv.Atoi(s[strings.LastIndexByte(s, '-')+1:])
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	var parts []string
	for i := 0; i < len(numbers); {
		j := i
		for j+1 < len(numbers) && numbers[j+1] == numbers[j]+1 {
			j++
		}
		part := strconv.Itoa(numbers[i])
		if j > i {
			part += "-" + strconv.Itoa(numbers[j])
		}
		parts = append(parts, part)
		i = j + 1
	}
	if parts == nil {
		parts = []string{"none"}
	}
	return r.String() + " " + strings.Join(parts, ",")
}
