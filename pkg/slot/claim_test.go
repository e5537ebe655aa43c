package slot

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/gpu"
)

// told is a claim of the kubelet's checkpoint, listed one of PodResources; both of shares.
func told(uid, container, name string, slots ...string) Claim {
	return Claim{UID: uid, Container: container, Resource: shares, Slots: slots, Name: name}
}

func listed(pod, container string, slots ...string) Claim {
	return Claim{Namespace: "ns", Pod: pod, Container: container, Resource: shares, Slots: slots}
}

func allocated(name string, after time.Duration, slots ...string) Record {
	return Record{Name: name, Resource: shares, Slots: slots, Allocated: start.Add(after)}
}

// bound is a record that container main of the pod holds, whose UID is "uid-" and its name.
func bound(name, pod string, slots ...string) Record {
	return holding(name, pod, shares, slots, gpu.Grant{GPU: "g0", MilliGPU: 10 * int64(len(slots)), MemoryMiB: 1})
}

func after(r Record, d time.Duration) Record {
	r.Allocated = start.Add(d)
	return r
}

func TestOwners(t *testing.T) {
	for name, c := range map[string]struct {
		book  Book
		k     Kubelet
		slots []string
		want  []Owner
		err   error
	}{
		"the checkpoint knows the container, PodResources the pod's name": {
			k:     Kubelet{Checkpoint: []Claim{told("u1", "main", "a", "s1"), told("u2", "main", "b", "s2")}, Active: []Claim{listed("one", "main", "s1"), listed("two", "main", "s2")}},
			slots: []string{"s1"},
			want:  []Owner{{Name: "a", UID: "u1", Namespace: "ns", Pod: "one", Container: "main"}},
		},
		"the checkpoint alone is enough": {
			k:     Kubelet{Checkpoint: []Claim{told("u1", "main", "a", "s1")}},
			slots: []string{"s1"},
			want:  []Owner{{Name: "a", UID: "u1", Container: "main"}},
		},
		"PodResources does not list init containers": {
			k: Kubelet{
				Checkpoint: []Claim{told("u1", "setup", "a", "s1", "s2"), told("u1", "main", "b", "s2")},
				Active:     []Claim{listed("one", "main", "s2")},
			},
			slots: []string{"s1", "s2"},
			want:  []Owner{{Name: "a", UID: "u1", Container: "setup"}},
		},
		"of an init container's slots another container has some: it is found by its own": {
			k: Kubelet{
				Checkpoint: []Claim{told("u1", "setup", "a", "s1", "s2"), told("u1", "main", "b", "s2")},
				Active:     []Claim{listed("one", "main", "s2")},
			},
			slots: []string{"s2"},
			want:  []Owner{{Name: "b", UID: "u1", Namespace: "ns", Pod: "one", Container: "main"}},
		},
		"an init container's slots and one more": {
			k: Kubelet{
				Checkpoint: []Claim{told("u1", "setup", "a", "s1"), told("u1", "main", "b", "s1", "s2")},
				Active:     []Claim{listed("one", "main", "s1", "s2")},
			},
			slots: []string{"s1", "s2"},
			want:  []Owner{{Name: "b", UID: "u1", Namespace: "ns", Pod: "one", Container: "main"}},
		},
		"the same slots one after the other: all of them, by name": {
			k: Kubelet{
				Checkpoint: []Claim{told("u1", "main", "c", "s1"), told("u1", "setup", "a", "s1"), told("u1", "warm", "b", "s1")},
				Active:     []Claim{listed("one", "main", "s1")},
			},
			slots: []string{"s1"},
			want: []Owner{
				{Name: "a", UID: "u1", Namespace: "ns", Pod: "one", Container: "setup"},
				{Name: "b", UID: "u1", Namespace: "ns", Pod: "one", Container: "warm"},
				{Name: "c", UID: "u1", Namespace: "ns", Pod: "one", Container: "main"},
			},
		},
		"slots of the same names of another resource are others": {
			k: Kubelet{Checkpoint: []Claim{
				{UID: "u1", Container: "main", Resource: whole, Slots: []string{"s1"}, Name: "a"}, told("u2", "main", "b", "s1"),
			}},
			slots: []string{"s1"},
			want:  []Owner{{Name: "b", UID: "u2", Container: "main"}},
		},
		"part of a container's slots are nobody's": {
			k:     Kubelet{Checkpoint: []Claim{told("u1", "main", "a", "s1", "s2")}},
			slots: []string{"s1"},
			err:   ErrNoOwner,
		},
		"the checkpoint names two pods": {
			k:     Kubelet{Checkpoint: []Claim{told("u1", "main", "a", "s1"), told("u2", "main", "b", "s1")}},
			slots: []string{"s1"},
			err:   ErrNoOwner,
		},
		"PodResources was read while the slots went from one pod to another: the checkpoint decides": {
			k: Kubelet{
				Checkpoint: []Claim{told("u2", "main", "b", "s1")},
				Active:     []Claim{listed("one", "main", "s1"), listed("two", "main", "s1")},
			},
			slots: []string{"s1"},
			want:  []Owner{{Name: "b", UID: "u2", Container: "main"}},
		},
		"PodResources was read before the slots went to another pod: the two are told together": {
			k:     Kubelet{Checkpoint: []Claim{told("u2", "main", "b", "s1")}, Active: []Claim{listed("one", "main", "s1")}},
			slots: []string{"s1"},
			want:  []Owner{{Name: "b", UID: "u2", Namespace: "ns", Pod: "one", Container: "main"}},
		},
		"another plugin allocated": {
			k:     Kubelet{Checkpoint: []Claim{told("u1", "main", "", "GPU-1")}, Active: []Claim{listed("one", "main", "GPU-1")}},
			slots: []string{"GPU-1"},
			err:   ErrForeign,
		},
		"the checkpoint has nothing": {
			k: Kubelet{Checkpoint: []Claim{}, Active: []Claim{listed("one", "main", "s1")}}, slots: []string{"s1"}, err: ErrNoOwner,
		},
		"nobody answers": {book: Book{[]Record{bound("a", "one", "s1")}}, slots: []string{"s1"}, err: ErrNoOwner},
		"without the checkpoint, the record that was allocated last": {
			book:  Book{[]Record{allocated("a", 3, "s1"), allocated("b", 5, "s1"), allocated("c", 4, "s1"), allocated("d", 9, "s1", "s2")}},
			k:     Kubelet{Active: []Claim{listed("one", "main", "s1")}},
			slots: []string{"s1"},
			want:  []Owner{{Name: "b", Namespace: "ns", Pod: "one", Container: "main"}},
		},
		"without the checkpoint, a container that restarts has the record that it is bound to": {
			book:  Book{[]Record{bound("a", "one", "s1"), after(bound("b", "two", "s1"), time.Hour)}},
			k:     Kubelet{Active: []Claim{listed("one", "main", "s1")}},
			slots: []string{"s1"},
			want:  []Owner{{Name: "a", UID: "uid-one", Namespace: "ns", Pod: "one", Container: "main"}},
		},
		"without the checkpoint, a pod of the same name as one before has what was allocated since": {
			book:  Book{[]Record{after(bound("a", "one", "s1"), 0), allocated("b", time.Second, "s1")}},
			k:     Kubelet{Active: []Claim{listed("one", "main", "s1")}},
			slots: []string{"s1"},
			want:  []Owner{{Name: "b", Namespace: "ns", Pod: "one", Container: "main"}},
		},
		"without the checkpoint, what another pod holds is not given to this one": {
			book:  Book{[]Record{bound("a", "two", "s1")}},
			k:     Kubelet{Active: []Claim{listed("one", "main", "s1")}},
			slots: []string{"s1"},
			err:   ErrNoOwner,
		},
		"without the checkpoint, two records of the same moment say nothing": {
			book:  Book{[]Record{allocated("a", 5, "s1"), allocated("b", 5, "s1"), allocated("c", 3, "s1")}},
			k:     Kubelet{Active: []Claim{listed("one", "main", "s1")}},
			slots: []string{"s1"},
			err:   ErrNoOwner,
		},
		"without the checkpoint and with a lost book": {
			k: Kubelet{Active: []Claim{listed("one", "main", "s1")}}, slots: []string{"s1"}, err: ErrNoOwner,
		},
		"without the checkpoint, two pods": {
			book:  Book{[]Record{allocated("a", 5, "s1")}},
			k:     Kubelet{Active: []Claim{listed("one", "main", "s1"), listed("two", "main", "s1")}},
			slots: []string{"s1"},
			err:   ErrNoOwner,
		},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 {
				got, err := c.book.Owners(shares, c.slots, c.k)
				if !errors.Is(err, c.err) {
					t.Fatalf("error %v, want %v", err, c.err)
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("Owners (-want +got)\n%s", diff)
				}
				slices.Reverse(c.k.Checkpoint)
				slices.Reverse(c.k.Active)
			}
		})
	}
}

func TestOwnerIn(t *testing.T) {
	pods := map[string]Pod{
		"u1": {UID: "u1", Namespace: "ns", Name: "one", Over: true},
		"u2": {UID: "u2", Namespace: "ns", Name: "one"},
		"u3": {UID: "u3", Namespace: "other", Name: "one"},
		"u4": {UID: "u4", Namespace: "ns", Name: "four", Over: true},
		"u5": {UID: "u5", Namespace: "ns", Name: "twin"},
		"u6": {UID: "u6", Namespace: "ns", Name: "twin"},
	}
	for name, c := range map[string]struct {
		owner Owner
		want  string
	}{
		"by UID alone":                          {Owner{UID: "u1"}, "u1"},
		"by UID and name":                       {Owner{UID: "u3", Namespace: "other", Pod: "one"}, "u3"},
		"UID and name of two pods":              {Owner{UID: "u3", Namespace: "ns", Pod: "one"}, ""},
		"UID and name of two pods, once more":   {Owner{UID: "u2", Namespace: "ns", Pod: "two"}, ""},
		"a UID that is not known":               {Owner{UID: "u9", Namespace: "ns", Pod: "one"}, ""},
		"by name, of which one is over":         {Owner{Namespace: "ns", Pod: "one"}, "u2"},
		"by name, and it is over":               {Owner{Namespace: "ns", Pod: "four"}, ""},
		"by a name that is not known":           {Owner{Namespace: "other", Pod: "four"}, ""},
		"by a name that two live pods go by":    {Owner{Namespace: "ns", Pod: "twin"}, ""},
		"an owner of whom nothing is known":     {Owner{}, ""},
		"by UID, whatever its container's name": {Owner{UID: "u2", Container: "main"}, "u2"},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := c.owner.In(pods)
			if ok != (c.want != "") || ok && got.UID != c.want {
				t.Errorf("pod %q, found %t, want %q", got.UID, ok, c.want)
			}
		})
	}
}

func TestReconcile(t *testing.T) {
	now := start.Add(time.Hour)
	alive := map[string]Pod{"uid-one": {UID: "uid-one", Namespace: "ns", Name: "one"}}
	over := map[string]Pod{"uid-one": {UID: "uid-one", Namespace: "ns", Name: "one", Over: true}}
	nothing := Kubelet{Checkpoint: []Claim{}, Active: []Claim{}}
	silent := Kubelet{}
	missing := func(r Record, since time.Time) Record {
		r.Missing = since
		return r
	}
	one := bound("a", "one", "s1")
	knows := Kubelet{Checkpoint: []Claim{told("uid-one", "main", "a", "s1")}, Active: []Claim{listed("one", "main", "s1")}}
	for name, c := range map[string]struct {
		book Book
		k    Kubelet
		pods map[string]Pod
		now  time.Time
		kept []Record
		gone []string
	}{
		"an empty book stays empty": {k: nothing},

		"a live pod keeps what is bound to it":                                {book: Book{[]Record{one}}, k: knows, pods: alive, kept: []Record{one}},
		"whatever the kubelet says, for it forgets when it starts":            {book: Book{[]Record{one}}, k: nothing, pods: alive, kept: []Record{one}},
		"and when the kubelet says nothing":                                   {book: Book{[]Record{one}}, k: silent, pods: alive, kept: []Record{one}},
		"a pod that is over keeps nothing, although the kubelet lists it yet": {book: Book{[]Record{one}}, k: knows, pods: over, gone: []string{"a"}},
		"nor when the kubelet is silent":                                      {book: Book{[]Record{one}}, k: silent, pods: over, gone: []string{"a"}},

		"a pod that vanished keeps it while the kubelet has not noticed": {book: Book{[]Record{one}}, k: knows, kept: []Record{one}},
		"it goes once the kubelet's checkpoint is without it":            {book: Book{[]Record{one}}, k: nothing, gone: []string{"a"}},
		"also when PodResources does not answer": {
			book: Book{[]Record{one}}, k: Kubelet{Checkpoint: []Claim{}}, gone: []string{"a"},
		},
		"while the kubelet is silent nothing goes": {book: Book{[]Record{one}}, k: silent, kept: []Record{one}},
		"a checkpoint that has it and a list that has not: a kubelet that starts, or one that has not written since": {
			book: Book{[]Record{one}}, k: Kubelet{Checkpoint: knows.Checkpoint, Active: []Claim{}}, kept: []Record{missing(one, now)},
		},
		"it stays for the time of grace": {
			book: Book{[]Record{missing(one, now.Add(1-Grace))}}, k: Kubelet{Checkpoint: knows.Checkpoint, Active: []Claim{}},
			kept: []Record{missing(one, now.Add(1-Grace))},
		},
		"and then goes": {
			book: Book{[]Record{missing(one, now.Add(-Grace))}}, k: Kubelet{Checkpoint: knows.Checkpoint, Active: []Claim{}}, gone: []string{"a"},
		},
		"the same without a checkpoint": {
			book: Book{[]Record{missing(one, now.Add(-Grace))}}, k: Kubelet{Active: []Claim{}}, gone: []string{"a"},
		},
		"a kubelet that lists it again starts the time anew": {
			book: Book{[]Record{missing(one, now.Add(-Grace))}}, k: knows, kept: []Record{one},
		},
		"so does an API server that has it again": {
			book: Book{[]Record{missing(one, now.Add(-Grace))}}, k: nothing, pods: alive, kept: []Record{one},
		},
		"a clock that was set back starts the time anew": {
			book: Book{[]Record{missing(one, now.Add(time.Hour))}}, k: Kubelet{Checkpoint: knows.Checkpoint, Active: []Claim{}},
			kept: []Record{missing(one, now)},
		},
		"the slots of a vanished pod went to another of the same name: the old record goes at once": {
			book: Book{[]Record{one, allocated("b", time.Hour, "s1")}},
			k:    Kubelet{Checkpoint: []Claim{told("uid-new", "main", "b", "s1")}, Active: []Claim{listed("one", "main", "s1")}},
			pods: map[string]Pod{"uid-new": {UID: "uid-new", Namespace: "ns", Name: "one"}},
			kept: []Record{allocated("b", time.Hour, "s1")}, gone: []string{"a"},
		},
		"another container of the same pod with the same slots does not keep it": {
			book: Book{[]Record{missing(one, now.Add(-Grace))}},
			k:    Kubelet{Active: []Claim{listed("one", "other", "s1"), listed("one", "main", "s2"), listed("two", "main", "s1")}},
			gone: []string{"a"},
		},

		"the kubelet lost its checkpoint and allocated anew: the old record stays until the new one is bound": {
			book: Book{[]Record{one, allocated("b", time.Hour, "s2")}},
			k:    Kubelet{Checkpoint: []Claim{told("uid-one", "main", "b", "s2")}}, pods: alive,
			kept: []Record{one, allocated("b", time.Hour, "s2")},
		},
		"and then goes, the new one being bound": {
			book: Book{[]Record{one, bound("b", "one", "s2")}},
			k:    Kubelet{Checkpoint: []Claim{told("uid-one", "main", "b", "s2")}}, pods: alive,
			kept: []Record{bound("b", "one", "s2")}, gone: []string{"a"},
		},
		"two records of a container that the kubelet has both forgotten stay": {
			book: Book{[]Record{one, bound("b", "one", "s2")}}, k: nothing, pods: alive, kept: []Record{one, bound("b", "one", "s2")},
		},

		"what was allocated is known to the kubelet for a live pod": {
			book: Book{[]Record{allocated("a", 0, "s1")}}, k: knows, pods: alive, kept: []Record{allocated("a", 0, "s1")},
		},
		"what was allocated is not yet known to the kubelet": {
			book: Book{[]Record{allocated("a", time.Hour-Grace+1, "s1")}}, k: nothing, kept: []Record{allocated("a", time.Hour-Grace+1, "s1")},
		},
		"what was allocated never came to the kubelet's checkpoint": {
			book: Book{[]Record{allocated("a", time.Hour-Grace, "s1")}}, k: nothing, gone: []string{"a"},
		},
		"what was allocated waits for a checkpoint that can be read": {
			book: Book{[]Record{allocated("a", 0, "s1")}}, k: Kubelet{Active: []Claim{}}, kept: []Record{allocated("a", 0, "s1")},
		},
		"what was allocated for a pod that is over goes at once": {
			book: Book{[]Record{allocated("a", time.Hour, "s1")}}, k: knows, pods: over, gone: []string{"a"},
		},
		"what was allocated for a pod that the API server does not have yet": {
			book: Book{[]Record{allocated("a", time.Hour-time.Second, "s1")}}, k: knows, kept: []Record{allocated("a", time.Hour-time.Second, "s1")},
		},
		"what was allocated for a pod that vanished, in a checkpoint that nobody writes": {
			book: Book{[]Record{allocated("a", 0, "s1")}}, k: knows, gone: []string{"a"},
		},
		"a clock that was set back makes what was allocated young": {
			book: Book{[]Record{allocated("a", 100*time.Hour, "s1")}}, k: nothing, kept: []Record{allocated("a", time.Hour, "s1")},
		},
		"what another plugin allocated keeps no record": {
			book: Book{[]Record{allocated("a", 0, "s1")}}, k: Kubelet{Checkpoint: []Claim{told("uid-one", "main", "", "s1")}}, pods: alive, gone: []string{"a"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			kept, gone := c.book.Reconcile(c.k, c.pods, now)
			if diff := cmp.Diff(c.kept, kept.Records); diff != "" {
				t.Errorf("kept (-want +got)\n%s", diff)
			}
			var names []string
			for _, r := range gone {
				names = append(names, r.Name)
			}
			if diff := cmp.Diff(c.gone, names); diff != "" {
				t.Errorf("released (-want +got)\n%s", diff)
			}
			if again, more := kept.Reconcile(c.k, c.pods, now); len(more) > 0 || !cmp.Equal(kept, again) {
				t.Errorf("a second time it releases %v and keeps\n%v, not\n%v", more, again, kept)
			}
		})
	}
}

func parse(t testing.TB, text string) gpu.Assignment {
	t.Helper()
	a, err := gpu.ParseAssignment(text)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestRecover(t *testing.T) {
	now := start.Add(time.Hour)
	pod := func(name, assignment string) Pod {
		return Pod{UID: "uid-" + name, Namespace: "ns", Name: name, Assignment: parse(t, assignment)}
	}
	pods := func(list ...Pod) map[string]Pod {
		m := map[string]Pod{}
		for _, p := range list {
			m[p.UID] = p
		}
		return m
	}
	// recovered is what Recover makes of container main of the pod.
	recovered := func(name, podName, assignment string, grants []gpu.Grant, slots ...string) Record {
		return Record{Name: name, Resource: shares, Slots: slots, Allocated: now, Holder: &Holder{
			Namespace: "ns", Pod: podName, UID: "uid-" + podName, Container: "main", Grants: grants, Assignment: assignment, Bound: now,
		}}
	}
	twoPercent := []gpu.Grant{{GPU: "g0", MilliGPU: 20, MemoryMiB: 5}}
	gone := pod("one", "main=g0:20m/5Mi")
	gone.Over = true
	unknown := Pod{UID: "uid-one", Namespace: "ns", Name: "one", Err: errors.New("no annotation")}
	for name, c := range map[string]struct {
		book Book
		k    Kubelet
		pods map[string]Pod
		want []Record
	}{
		"what the book has stays": {
			book: Book{[]Record{bound("a", "one", "s1", "s2")}},
			k:    Kubelet{Checkpoint: []Claim{told("uid-one", "main", "a", "s1", "s2")}},
			pods: pods(pod("one", "main=g0:20m/1Mi")),
			want: []Record{bound("a", "one", "s1", "s2")},
		},
		"the containers of live pods are bound since now": {
			k:    Kubelet{Checkpoint: []Claim{told("uid-two", "main", "b", "s3", "s4"), told("uid-one", "main", "a", "s1", "s2")}},
			pods: pods(pod("one", "main=g0:20m/5Mi"), pod("two", "~setup=g0:50m/5Mi;main=g0:20m/5Mi")),
			want: []Record{
				recovered("a", "one", "main=g0:20m/5Mi", twoPercent, "s1", "s2"),
				recovered("b", "two", "~setup=g0:50m/5Mi;main=g0:20m/5Mi", twoPercent, "s3", "s4"),
			},
		},
		"a pod that is over or not known is left out": {
			k:    Kubelet{Checkpoint: []Claim{told("uid-one", "main", "a", "s1", "s2"), told("uid-two", "main", "b", "s3")}},
			pods: pods(gone),
		},
		"a pod without an assignment has its slots, and no GPU": {
			k:    Kubelet{Checkpoint: []Claim{told("uid-one", "main", "a", "s1", "s2")}},
			pods: pods(unknown), want: []Record{allocated("a", time.Hour, "s1", "s2")},
		},
		"so has one with other slots than its assignment is worth": {
			k:    Kubelet{Checkpoint: []Claim{told("uid-one", "main", "a", "s1", "s2", "s3")}},
			pods: pods(pod("one", "main=g0:20m/5Mi")), want: []Record{allocated("a", time.Hour, "s1", "s2", "s3")},
		},
		"and a container that the assignment does not name": {
			k:    Kubelet{Checkpoint: []Claim{told("uid-one", "side", "a", "s1", "s2")}},
			pods: pods(pod("one", "main=g0:20m/5Mi")), want: []Record{allocated("a", time.Hour, "s1", "s2")},
		},
		"and a container whose pod was given GPUs by another assignment": {
			book: Book{[]Record{bound("a", "one", "s1", "s2")}},
			k:    Kubelet{Checkpoint: []Claim{told("uid-one", "side", "b", "s3", "s4")}},
			pods: pods(pod("one", "main=g0:20m/1Mi;side=g1:20m/1Mi")),
			want: []Record{bound("a", "one", "s1", "s2"), allocated("b", time.Hour, "s3", "s4")},
		},
		"what another device plugin allocated is not ours": {
			k:    Kubelet{Checkpoint: []Claim{told("uid-one", "main", "", "s1", "s2")}},
			pods: pods(pod("one", "main=g0:20m/5Mi")),
		},
		"a checkpoint that is not sound adds nothing": {
			k:    Kubelet{Checkpoint: []Claim{told("uid-one", "main", "a"), told("uid-one", "main", "b", "s2", "s1"), {UID: "uid-one", Container: "main", Name: "c", Slots: []string{"s1"}}}},
			pods: pods(pod("one", "main=g0:20m/5Mi")),
		},
		"without a checkpoint there is nothing to recover": {
			k: Kubelet{Active: []Claim{listed("one", "main", "s1", "s2")}}, pods: pods(pod("one", "main=g0:20m/5Mi")),
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := c.book.Recover(c.k, c.pods, now)
			if diff := cmp.Diff(c.want, got.Records); diff != "" {
				t.Errorf("Recover (-want +got)\n%s", diff)
			}
			if diff := cmp.Diff(got, got.Recover(c.k, c.pods, now.Add(time.Hour))); diff != "" {
				t.Errorf("a second time (-first +second)\n%s", diff)
			}
			if len(got.Records) > 0 {
				if _, err := Decode(encode(t, got)); err != nil {
					t.Errorf("what was recovered cannot be read back: %v", err)
				}
			}
		})
	}
}
