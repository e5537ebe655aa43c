package slot

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
)

// given is a record bound to a container of the pod, as its assignment says.
func given(t testing.TB, name, pod, container string, r Resource, assignment string) Record {
	t.Helper()
	a := parse(t, assignment)
	return Record{Name: name, Resource: r, Slots: []string{"slot-of-" + name}, Allocated: start, Holder: &Holder{
		Namespace: "ns", Pod: pod, UID: "uid-" + pod, Container: container, Grants: grantsOf(a, container, r), Assignment: assignment, Bound: start,
	}}
}

func TestDecide(t *testing.T) {
	now := start.Add(time.Hour)
	a30 := onDemand(t, "A30-24GB")
	exist := []gpu.Instance{{Profile: "1g.10gb", Start: 0, Size: 1}, {Profile: "1g.10gb+me", Start: 1, Size: 1}, {Profile: "1g.10gb+me", Start: 2, Size: 1}}
	grants := func(text string) []gpu.Grant { return parse(t, "x="+text).Containers[0].Grants }
	for name, c := range map[string]struct {
		devices    []gpu.Device
		book       []Record
		assignment string
		podErr     error
		container  string // main when empty
		resource   Resource
		slots      int

		want []gpu.Grant
		err  error
		says string
	}{
		"a whole GPU": {
			devices: []gpu.Device{plain(0), plain(1)}, assignment: "main=g1", resource: whole, slots: 1, want: grants("g1"),
		},
		"several whole GPUs, a slot for each": {
			devices: []gpu.Device{plain(0), plain(1), plain(2)}, assignment: "main=g2,g0", resource: whole, slots: 2, want: grants("g2,g0"),
		},
		"a share, a slot for each percent": {
			devices: []gpu.Device{plain(0)}, assignment: "main=g0:250m/300Mi", resource: shares, slots: 25, want: grants("g0:250m/300Mi"),
		},
		"a share of several GPUs, counted once": {
			devices: []gpu.Device{plain(0), plain(1)}, assignment: "main=g0:250m/300Mi,g1:250m/200Mi", resource: shares, slots: 25,
			want: grants("g0:250m/300Mi,g1:250m/200Mi"),
		},
		"a MIG instance": {
			devices: []gpu.Device{partitioned(0, a30...)}, assignment: "main=g0:2g.12gb@2:2", resource: profile("2g.12gb"), slots: 1, want: grants("g0:2g.12gb@2:2"),
		},
		"an instance with media extensions is another resource than one without": {
			devices: []gpu.Device{partitioned(0, exist...)}, assignment: "main=g0:1g.10gb@0:1,g0:1g.10gb+me@1:1", resource: profile("1g.10gb+me"), slots: 1,
			want: grants("g0:1g.10gb+me@1:1"),
		},
		"and the one without, of the same container": {
			devices: []gpu.Device{partitioned(0, exist...)}, assignment: "main=g0:1g.10gb@0:1,g0:1g.10gb+me@1:1", resource: profile("1g.10gb"), slots: 1,
			want: grants("g0:1g.10gb@0:1"),
		},
		"whole GPUs and instances of one container are told apart": {
			devices: []gpu.Device{plain(1), partitioned(0, a30...)}, assignment: "main=g1,g0:1g.6gb@0:1", resource: whole, slots: 1, want: grants("g1"),
		},
		"an init container gets its own": {
			devices: []gpu.Device{plain(0)}, assignment: "~setup=g0:500m/500Mi;main=g0:250m/300Mi", container: "setup", resource: shares, slots: 50,
			want: grants("g0:500m/500Mi"),
		},
		"the container after it too, with the first one bound": {
			devices: []gpu.Device{plain(0)}, assignment: "~setup=g0;main=g0", resource: whole, slots: 1, want: grants("g0"),
			book: []Record{given(t, "a", "me", "setup", whole, "~setup=g0;main=g0")},
		},
		"a sidecar beside them": {
			devices: []gpu.Device{plain(0)}, assignment: "side=g0:600m/500Mi;main=g0:400m/500Mi", resource: shares, slots: 40, want: grants("g0:400m/500Mi"),
			book: []Record{given(t, "a", "me", "side", shares, "side=g0:600m/500Mi;main=g0:400m/500Mi")},
		},
		"a container that starts again has what it had": {
			devices: []gpu.Device{plain(0)}, assignment: "main=g0", resource: whole, slots: 1, want: grants("g0"),
			book: []Record{given(t, "a", "me", "main", whole, "main=g0")},
		},
		"also when its GPU is unhealthy now": {
			devices: []gpu.Device{sick(plain(0))}, assignment: "main=g0", resource: whole, slots: 1, want: grants("g0"),
			book: []Record{given(t, "a", "me", "main", whole, "main=g0")},
		},
		"also when the GPU is no longer given whole": {
			devices: []gpu.Device{sharedOnly(plain(0))}, assignment: "main=g0", resource: whole, slots: 1, want: grants("g0"),
			book: []Record{given(t, "a", "me", "main", whole, "main=g0")},
		},
		"also when the GPU is no longer shared": {
			devices: []gpu.Device{wholeOnly(plain(0))}, assignment: "main=g0:10m/1Mi", resource: shares, slots: 1, want: grants("g0:10m/1Mi"),
			book: []Record{given(t, "a", "me", "main", shares, "main=g0:10m/1Mi")},
		},
		"beside others on the same GPU": {
			devices: []gpu.Device{plain(0)}, assignment: "main=g0:300m/300Mi", resource: shares, slots: 30, want: grants("g0:300m/300Mi"),
			book: []Record{given(t, "a", "other", "main", shares, "main=g0:700m/700Mi")},
		},
		"what was allocated and never started takes nothing": {
			devices: []gpu.Device{plain(0)}, assignment: "main=g0", resource: whole, slots: 1, want: grants("g0"),
			book: []Record{{Name: "a", Resource: whole, Slots: []string{"gpu-0"}}},
		},
		"what others hold of a GPU that vanished is in nobody's way": {
			devices: []gpu.Device{plain(0)}, assignment: "main=g0", resource: whole, slots: 1, want: grants("g0"),
			book: []Record{given(t, "a", "other", "main", whole, "main=g7")},
		},

		"no assignment": {
			devices: []gpu.Device{plain(0)}, podErr: errors.New("the pod has no annotation"), resource: whole, slots: 1, err: ErrUnassigned, says: "the pod has no annotation",
		},
		"an empty assignment": {devices: []gpu.Device{plain(0)}, resource: whole, slots: 1, err: ErrUnassigned, says: `has nothing of this kind for container "main"`},
		"an assignment for another container": {
			devices: []gpu.Device{plain(0)}, assignment: "side=g0", resource: whole, slots: 1, err: ErrUnassigned, says: `"side=g0" has nothing of this kind for container "main"`,
		},
		"an assignment of another kind": {
			devices: []gpu.Device{plain(0)}, assignment: "main=g0", resource: shares, slots: 100, err: ErrUnassigned, says: "nothing of this kind",
		},
		"an assignment of another profile": {
			devices: []gpu.Device{partitioned(0, exist...)}, assignment: "main=g0:1g.10gb@0:1", resource: profile("1g.10gb+me"), slots: 1, err: ErrUnassigned, says: "nothing of this kind",
		},
		"an assignment of more than the container asked for": {
			devices: []gpu.Device{plain(0), plain(1)}, assignment: "main=g0,g1", resource: whole, slots: 1, err: ErrUnassigned, says: `has 1 x gpu, which is not what the assignment "main=g0,g1" is worth`,
		},
		"a larger share than the container asked for": {
			devices: []gpu.Device{plain(0)}, assignment: "main=g0:900m/1Mi", resource: shares, slots: 10, err: ErrUnassigned, says: "has 10 x share",
		},
		"a share of a fraction of a percent more": {
			devices: []gpu.Device{plain(0)}, assignment: "main=g0:109m/1Mi", resource: shares, slots: 10, err: ErrUnassigned, says: "has 10 x share",
		},
		"shares of which only the first is of the size": {
			devices: []gpu.Device{plain(0), plain(1)}, assignment: "main=g0:100m/1Mi,g1:900m/1Mi", resource: shares, slots: 10, err: ErrUnassigned, says: "has 10 x share",
		},
		"an assignment that was changed after the pod had been given GPUs": {
			devices: []gpu.Device{plain(0), plain(1)}, assignment: "main=g1", resource: whole, slots: 1, err: ErrUnassigned, says: `"main=g0" when it was given GPUs, and somebody made it "main=g1"`,
			book: []Record{given(t, "a", "me", "main", whole, "main=g0")},
		},
		"a GPU of another node": {
			devices: []gpu.Device{plain(0), plain(1)}, assignment: "main=elsewhere", resource: whole, slots: 1, err: ErrElsewhere, says: "node-a has no GPU elsewhere, only g0, g1",
		},
		"a GPU of a node that has none": {assignment: "main=g0", resource: whole, slots: 1, err: ErrElsewhere, says: "node-a has no GPU g0, only none"},
		"a GPU that another container of the pod should have, of another node": {
			devices: []gpu.Device{plain(0)}, assignment: "main=g0;side=elsewhere", resource: whole, slots: 1, err: ErrElsewhere, says: "no GPU elsewhere",
		},
		"a GPU that has vanished under the pod": {
			devices: []gpu.Device{plain(0)}, assignment: "main=g1", resource: whole, slots: 1, err: ErrHeld, says: "GPU g1 has vanished from node-a",
			book: []Record{given(t, "a", "me", "main", whole, "main=g1")},
		},
		"a GPU that is unhealthy": {
			devices: []gpu.Device{sick(plain(0))}, assignment: "main=g0", resource: whole, slots: 1, err: ErrHeld, says: "no healthy GPU g0",
		},
		"a GPU that another pod holds": {
			devices: []gpu.Device{plain(0)}, assignment: "main=g0", resource: whole, slots: 1, err: ErrHeld, says: "g0 is held whole beside others by [ns/me ns/other]",
			book: []Record{given(t, "a", "other", "main", whole, "main=g0")},
		},
		"a GPU that another pod holds by an assignment of two containers, of which one has started": {
			devices: []gpu.Device{plain(0), plain(1)}, assignment: "main=g1", resource: whole, slots: 1, err: ErrHeld, says: "g1 is held whole beside others",
			book: []Record{given(t, "a", "other", "side", whole, "side=g0;main=g1")},
		},
		"more percent than are left": {
			devices: []gpu.Device{plain(0)}, assignment: "main=g0:310m/300Mi", resource: shares, slots: 31, err: ErrHeld, says: "shared to 101%",
			book: []Record{given(t, "a", "other", "main", shares, "main=g0:700m/700Mi")},
		},
		"more memory than is left": {
			devices: []gpu.Device{plain(0)}, assignment: "main=g0:10m/301Mi", resource: shares, slots: 1, err: ErrHeld, says: "1001 MiB given of 1000",
			book: []Record{given(t, "a", "other", "main", shares, "main=g0:10m/700Mi")},
		},
		"an instance that overlaps another pod's": {
			devices: []gpu.Device{partitioned(0, a30...)}, assignment: "main=g0:2g.12gb@0:2", resource: profile("2g.12gb"), slots: 1, err: ErrHeld, says: "overlapping",
			book: []Record{given(t, "a", "other", "main", profile("1g.6gb"), "main=g0:1g.6gb@1:1")},
		},
		"a second instance with media extensions where they are made on demand": {
			devices: []gpu.Device{partitioned(0, a30...)}, assignment: "main=g0:1g.6gb+me@0:1", resource: profile("1g.6gb+me"), slots: 1, err: ErrHeld, says: "cannot give the MIG instance",
			book: []Record{given(t, "a", "other", "main", profile("1g.6gb+me"), "main=g0:1g.6gb+me@1:1")},
		},
		"an instance that does not exist": {
			devices: []gpu.Device{partitioned(0, exist...)}, assignment: "main=g0:1g.10gb@5:1", resource: profile("1g.10gb"), slots: 1, err: ErrHeld, says: "cannot give the MIG instance 1g.10gb@5:1",
		},
		"a GPU in MIG mode whole": {
			devices: []gpu.Device{partitioned(0, exist...)}, assignment: "main=g0", resource: whole, slots: 1, err: ErrHeld, says: "in MIG mode but held whole",
		},
		"an instance of a GPU that is not in MIG mode": {
			devices: []gpu.Device{plain(0)}, assignment: "main=g0:1g.10gb@0:1", resource: profile("1g.10gb"), slots: 1, err: ErrHeld, says: "not in MIG mode but partitioned",
		},
		"a share of a GPU that is given whole only": {
			devices: []gpu.Device{wholeOnly(plain(0))}, assignment: "main=g0:100m/1Mi", resource: shares, slots: 10, err: ErrHeld, says: "given whole only but shared",
		},
		"a whole GPU of those that are shared only": {
			devices: []gpu.Device{sharedOnly(plain(0))}, assignment: "main=g0", resource: whole, slots: 1, err: ErrHeld, says: "given in shares only but held whole",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := Pod{UID: "uid-me", Namespace: "ns", Name: "me", Assignment: parse(t, c.assignment), Err: c.podErr}
			container := c.container
			if container == "" {
				container = "main"
			}
			inventory := cluster.NewInventory(cluster.SourceSlices, c.devices)
			got, err := Book{c.book}.Decide("node-a", inventory, p, container, c.resource, c.slots, now)
			if !errors.Is(err, c.err) || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Fatalf("error %v, want one that says %q and is %v", err, c.says, c.err)
			}
			kinds := 0
			for _, kind := range []error{ErrUnassigned, ErrElsewhere, ErrHeld} {
				if errors.Is(err, kind) {
					kinds++
				}
			}
			if err != nil {
				if kinds != 1 {
					t.Errorf("error %v is of %d kinds", err, kinds)
				}
				return
			}
			want := Holder{Namespace: "ns", Pod: "me", UID: "uid-me", Container: container, Grants: c.want, Assignment: c.assignment, Bound: now}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("Decide (-want +got)\n%s", diff)
			}
		})
	}
}

// TestDecideWhilePodsContradictEachOther: two pods are recovered whose assignments name the same GPU. One of them has it, and nobody knows
// which: neither is given it again before the other is gone.
func TestDecideWhilePodsContradictEachOther(t *testing.T) {
	inventory := cluster.NewInventory(cluster.SourceSlices, []gpu.Device{plain(0), plain(1)})
	pods := map[string]Pod{}
	for _, name := range []string{"honest", "forged", "third"} {
		pods["uid-"+name] = Pod{UID: "uid-" + name, Namespace: "ns", Name: name, Assignment: parse(t, "main=g0")}
	}
	third := pods["uid-third"]
	third.Assignment = parse(t, "main=g1")
	pods["uid-third"] = third
	k := Kubelet{Checkpoint: []Claim{
		{UID: "uid-forged", Container: "main", Resource: whole, Slots: []string{"gpu-0"}, Name: "a"},
		{UID: "uid-honest", Container: "main", Resource: whole, Slots: []string{"gpu-1"}, Name: "b"},
	}}
	book := Book{}.Recover(k, pods, start)
	for _, name := range []string{"honest", "forged"} {
		if _, err := book.Decide("node-a", inventory, pods["uid-"+name], "main", whole, 1, start); !errors.Is(err, ErrHeld) {
			t.Errorf("pod %s: error %v, want %v", name, err, ErrHeld)
		}
	}
	if _, err := book.Decide("node-a", inventory, third, "main", whole, 1, start); err != nil {
		t.Errorf("a pod that has nothing to do with it: %v", err)
	}
	forged := pods["uid-forged"]
	forged.Over = true
	pods["uid-forged"] = forged
	book, _ = book.Reconcile(k, pods, start)
	if _, err := book.Decide("node-a", inventory, pods["uid-honest"], "main", whole, 1, start); err != nil {
		t.Errorf("with the other pod over: %v", err)
	}
}
