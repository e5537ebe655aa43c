package slot

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"weft.sh/weft/pkg/gpu"
)

// active is what PodResources lists: no init containers, and nothing before the kubelet knows its pods.
func (k *modelKubelet) active(api map[string]*modelPod) []Claim {
	out := []Claim{}
	for _, uid := range k.pods {
		p := api[uid]
		if p == nil || p.Over {
			continue // force-deleted pods leave the list at once
		}
		for _, c := range p.containers {
			for r, h := range k.devs[uid][c.name] {
				if !c.init {
					out = append(out, Claim{Namespace: p.Namespace, Pod: p.Name, Container: c.name, Resource: r, Slots: h.slots})
				}
			}
		}
	}
	return out
}

func (k *modelKubelet) write() {
	k.disk = []Claim{}
	for uid, containers := range k.devs {
		for c, resources := range containers {
			for r, h := range resources {
				k.disk = append(k.disk, Claim{UID: uid, Container: c, Resource: r, Slots: h.slots, Name: h.name})
			}
		}
	}
}

// forget drops the devices of pods that are over or gone; in memory only.
func (w *world) forget() {
	k := &w.kubelet
	k.pods = slices.DeleteFunc(k.pods, func(uid string) bool { return w.api[uid] == nil || w.api[uid].Over })
	if k.ready {
		maps.DeleteFunc(k.devs, func(uid string, _ map[string]map[Resource]hold) bool { return !slices.Contains(k.pods, uid) })
	}
}

// restartKubelet restarts the kubelet, or the whole node: then no container runs any more.
func (w *world) restartKubelet() {
	k := &w.kubelet
	reboot := w.r.IntN(3) == 0
	if reboot {
		clear(w.given)
		if w.r.IntN(2) == 0 {
			k.disk = nil
		}
	}
	w.say("the kubelet restarts, checkpoint %t, reboot %t", k.disk != nil, reboot)
	k.pods, k.ready, k.devs = nil, false, map[string]map[string]map[Resource]hold{}
	k.forgot = k.forgot || k.disk == nil && len(w.given) > 0
	for _, c := range k.disk {
		k.insert(c.UID, c.Container, c.Resource, hold{c.Slots, c.Name})
	}
}

func (k *modelKubelet) insert(uid, container string, r Resource, h hold) {
	if k.devs[uid] == nil {
		k.devs[uid] = map[string]map[Resource]hold{}
	}
	if k.devs[uid][container] == nil {
		k.devs[uid][container] = map[Resource]hold{}
	}
	k.devs[uid][container][r] = h
}

// syncKubelet has the kubelet see the pods as they are. Pods that are new to it are admitted, after a restart those that run, too.
func (w *world) syncKubelet() {
	k := &w.kubelet
	wasReady := k.ready
	for _, uid := range w.live() {
		if !slices.Contains(k.pods, uid) {
			k.pods = append(k.pods, uid)
			w.admit(w.api[uid])
		}
	}
	k.ready = true
	if w.r.IntN(2) == 0 || !wasReady {
		w.forget()
	}
}

// admit allocates for all containers of the pod, one after the other. Slots of init containers are used again.
func (w *world) admit(p *modelPod) {
	k := &w.kubelet
	reuse := map[Resource][]string{}
	for _, c := range p.containers {
		for _, r := range inOrder(c.needs) {
			need := c.needs[r]
			h, ok := k.devs[p.UID][c.name][r]
			_, runs := w.given[p.UID][c.name+"/"+r.String()]
			if !ok && !(runs && !k.ready) { // what runs when the kubelet starts has what it needs
				w.forget()
				slots := w.choose(r, need, reuse[r])
				if slots == nil {
					w.say("%s is not admitted", p.UID)
					delete(k.devs, p.UID)
					w.end(p.UID)
					return
				}
				h = hold{slots, w.allocate(r, slots)}
				if w.book.Holds(p.UID) {
					w.count["allocated anew"]++
				}
				k.insert(p.UID, c.name, r, h)
				k.write()
			}
			reuse[r] = slices.DeleteFunc(reuse[r], func(s string) bool { return slices.Contains(h.slots, s) })
			if c.init {
				reuse[r] = append(reuse[r], h.slots...)
			}
		}
	}
	w.say("%s is admitted: %v", p.UID, k.devs[p.UID])
}

// choose takes slots that can be used again, then any that are free and healthy; nil when there are too few.
func (w *world) choose(r Resource, need int, reuse []string) []string {
	taken := map[string]bool{}
	for _, containers := range w.kubelet.devs {
		for _, resources := range containers {
			for _, s := range resources[r].slots {
				taken[s] = true
			}
		}
	}
	var free []string
	for _, s := range slices.Sorted(maps.Keys(w.kubelet.healthy[r])) {
		if w.kubelet.healthy[r][s] && !taken[s] {
			free = append(free, s)
		}
	}
	reuse = slices.Clone(reuse)
	w.r.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
	w.r.Shuffle(len(reuse), func(i, j int) { reuse[i], reuse[j] = reuse[j], reuse[i] })
	all := append(reuse, free...)
	if len(all) < need {
		return nil
	}
	slots := all[:need]
	slices.Sort(slots)
	return slots
}

// allocate is the agent's answer to Allocate: written down, then answered. Now and then the disk is full.
func (w *world) allocate(r Resource, slots []string) string {
	w.serial++
	name := fmt.Sprintf("%x-%d", w.r.Uint32(), w.serial)
	if w.r.IntN(20) > 0 {
		w.book = w.book.With(Record{Name: name, Resource: r, Slots: slots, Allocated: w.now})
	}
	return name
}

// startSomeContainer is the kubelet starting a container, for the first time or again, and the agent's answer.
func (w *world) startSomeContainer() {
	k := &w.kubelet
	w.forget()
	if len(k.pods) == 0 {
		return
	}
	p := w.api[pick(w, k.pods)]
	c := pick(w, p.containers)
	for _, r := range inOrder(k.devs[p.UID][c.name]) {
		w.preStart(p, c, r, k.devs[p.UID][c.name][r])
	}
}

func inOrder[V any](m map[Resource]V) []Resource {
	return slices.SortedFunc(maps.Keys(m), func(a, b Resource) int { return cmp.Compare(a.String(), b.String()) })
}

func (w *world) preStart(p *modelPod, c modelContainer, r Resource, h hold) {
	key := c.name + "/" + r.String()
	_, again := w.given[p.UID][key]
	err := w.answer(p, c.name, r, h)
	got, ok := w.book.Find(h.name)
	if err == nil && (!ok || got.Holder == nil || got.Holder.UID != p.UID || got.Holder.Container != c.name) {
		w.fatalf("%s of %s was started by record %s, which is %+v, holder %+v", c.name, p.UID, h.name, got, got.Holder)
	}
	w.say("%s of %s starts with %s %v, again %t: %v", c.name, p.UID, h.name, h.slots, again, err)
	switch {
	case err != nil && p.forged:
		w.count["refused forged"]++
	case err != nil:
		w.count["refused"]++
		if w.calm() && w.sound(p) {
			w.fatalf("%s of %s is refused although all is well: %v\nbook %+v", c.name, p.UID, err, w.book)
		}
	default:
		w.count["started"]++
		if again {
			w.count["restarted"]++
		}
		if w.calm() {
			w.count["started in calm"]++
		}
		if w.given[p.UID] == nil {
			w.given[p.UID] = map[string]Holder{}
		}
		w.given[p.UID][key] = *got.Holder
	}
}

// answer is what the agent does in PreStartContainer; it knows the slots alone. The error is that of the container that starts.
func (w *world) answer(p *modelPod, starting string, r Resource, h hold) error {
	said := w.told()
	if !w.rebuild(said) {
		return fmt.Errorf("the book is lost")
	}
	w.reconcile(said)
	owners, err := w.book.Owners(r, h.slots, said)
	if err != nil {
		return err
	}
	if len(owners) > 1 {
		w.count["two owners"]++
	}
	if said.Checkpoint == nil {
		w.count["owner without checkpoint"]++
	}
	err = fmt.Errorf("container %s is not among %v", starting, owners)
	for _, o := range owners {
		pod, ok := o.In(w.seen)
		// A name alone can be that of a pod which the agent has not seen yet: it asks the API server.
		stale := o.UID == "" && (w.api[pod.UID] == nil || w.api[pod.UID].Over)
		if !ok || pod.Over || stale {
			err = fmt.Errorf("pod of %v is not known", o)
			continue
		}
		if pod.UID != p.UID {
			w.fatalf("slots %v of %s are said to be those of %v", h.slots, p.UID, o)
		}
		if _, ok := w.book.Find(o.Name); !ok {
			w.book = w.book.With(Record{Name: o.Name, Resource: r, Slots: h.slots, Allocated: w.now})
		}
		holder, refusal := w.book.Decide("node-a", w.inventory(), pod, o.Container, r, len(h.slots), w.now)
		if refusal == nil {
			w.book = w.book.Bind(o.Name, holder)
		}
		if o.Container == starting {
			err = refusal
			if refusal == nil && o.Name != h.name {
				err = fmt.Errorf("the agent takes it for %s", o.Name) // the runtime finds no specification
			}
		}
	}
	return err
}

// sound reports whether all GPUs of the pod are there and healthy, or it holds them already.
func (w *world) sound(p *modelPod) bool {
	holds := len(w.given[p.UID]) > 0
	for _, u := range p.Assignment.Uses() {
		if !slices.ContainsFunc(w.devices, func(d gpu.Device) bool { return d.ID == u.GPU && (holds || !d.Unhealthy) }) {
			return false
		}
	}
	return true
}

// check is what holds after every step.
func (w *world) check() {
	w.checkGPUs()
	for i, r := range w.book.Records {
		if i > 0 && w.book.Records[i-1].Name >= r.Name {
			w.fatalf("records not in order: %+v", w.book.Records)
		}
		if r.Holder == nil {
			continue
		}
		if before, ok := w.names[r.Name]; ok && before != r.Holder.UID {
			w.fatalf("record %s moved from %s to %s", r.Name, before, r.Holder.UID)
		}
		w.names[r.Name] = r.Holder.UID
	}
	for uid := range w.given {
		if !w.lost && !w.book.Holds(uid) {
			w.fatalf("pod %s was given %v, and the book says nothing of it", uid, w.given[uid])
		}
	}
}

// checkGPUs: no GPU is given to live pods beyond what it has.
func (w *world) checkGPUs() {
	type sums struct {
		whole, pods   int
		milli, memory int64
		slices        uint64
	}
	gpus := map[gpu.ID]*sums{}
	for _, uid := range slices.Sorted(maps.Keys(w.given)) {
		all := map[string]bool{} // each container says the whole pod's, which is one
		for _, holder := range w.given[uid] {
			all[holder.Assignment] = true
		}
		if len(all) != 1 {
			w.fatalf("pod %s was given GPUs by several assignments: %v", uid, all)
		}
		for text := range all {
			for _, u := range parse(w.t, text).Uses() {
				s := gpus[u.GPU]
				if s == nil {
					s = &sums{}
					gpus[u.GPU] = s
				}
				s.pods++
				s.milli += u.MilliGPU
				s.memory += u.MemoryMiB
				if u.Whole {
					s.whole++
				}
				for _, i := range u.Instances {
					if s.slices&i.Slices() != 0 {
						w.fatalf("MIG instance %v of %s is given twice: %v", i, u.GPU, w.given)
					}
					s.slices |= i.Slices()
				}
				if s.whole > 0 && s.pods > 1 || s.milli > 1000 || s.memory > 1000 {
					w.fatalf("GPU %s is given as %+v: %v", u.GPU, *s, w.given)
				}
			}
		}
	}
}

// checkStates: as many healthy slots as sound GPUs, what is held of sound GPUs healthy, what is held of others not.
func (w *world) checkStates() {
	for _, o := range Offers(w.devices, false) {
		w.checkState(o)
	}
}

func (w *world) checkState(o Offer) {
	states := w.book.States(o, w.devices, false)
	want := 0
	sound := map[gpu.ID]bool{}
	for _, d := range w.devices {
		sound[d.ID] = !d.Unhealthy
		if !d.Unhealthy {
			for _, one := range Offers([]gpu.Device{d}, false) {
				if one.Resource == o.Resource {
					want += one.Count
				}
			}
		}
	}
	heldSound := map[string]bool{}
	for _, r := range w.book.Records {
		if r.Resource != o.Resource {
			continue
		}
		bad := 0
		if r.Holder != nil {
			for _, g := range r.Holder.Grants {
				if !sound[g.GPU] {
					bad++
				}
			}
		}
		unhealthy := 0
		for _, s := range r.Slots {
			healthy, listed := states[s]
			if !listed {
				w.fatalf("slot %s of %+v is not listed", s, r)
			}
			if !healthy {
				unhealthy++
			} else {
				heldSound[s] = true
			}
		}
		if bad > 0 && r.Resource == shares {
			bad = len(r.Slots)
		}
		if unhealthy < bad {
			w.fatalf("record %+v of %+v has %d unhealthy slots, want %d", r, r.Holder, unhealthy, bad)
		}
	}
	healthy := 0
	for _, ok := range states {
		if ok {
			healthy++
		}
	}
	if len(states) > o.Count {
		w.count["slot beyond"]++
	}
	if healthy != max(want, len(heldSound)) {
		w.fatalf("%s: %d healthy slots of %d, want %d, %d of them held", o.Resource, healthy, len(states), want, len(heldSound))
	}
}

// drain lets time pass with everything known: what is left belongs to live pods. Then all pods end, and nothing is left.
func (w *world) drain() {
	w.readable, w.answering = true, true
	settle := func() {
		for range 4 {
			w.now = w.now.Add(Grace)
			w.syncKubelet()
			w.forget()
			w.catchUp()
			w.collect()
			w.check()
		}
	}
	settle()
	for _, r := range w.book.Records {
		uid := ""
		for _, c := range w.kubelet.disk {
			if c.Name == r.Name {
				uid = c.UID
			}
		}
		if r.Holder != nil {
			uid = r.Holder.UID
		}
		if p := w.api[uid]; (p == nil || p.Over) && w.kubelet.disk != nil {
			w.fatalf("record %+v, holder %+v, is left over", r, r.Holder)
		}
	}
	for _, uid := range w.live() {
		for _, c := range w.api[uid].containers {
			for _, r := range inOrder(w.kubelet.devs[uid][c.name]) {
				w.preStart(w.api[uid], c, r, w.kubelet.devs[uid][c.name][r]) // which fails where all is well and it is refused
			}
		}
	}
	w.check()
	w.collect()
	held := map[string]string{}
	for _, r := range w.book.Records {
		if r.Holder == nil {
			continue
		}
		what := r.Holder.UID + "/" + r.Holder.Container + "/" + r.Resource.String()
		if other := held[what]; other != "" && w.given[r.Holder.UID] != nil {
			w.fatalf("both %s and %s are held by %s", other, r.Name, what)
		}
		held[what] = r.Name
	}
	for _, uid := range w.live() {
		w.end(uid)
	}
	w.kubelet.write()
	settle()
	if len(w.book.Records) > 0 {
		w.fatalf("at the end there is %+v", w.book.Records)
	}
}
