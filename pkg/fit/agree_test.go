package fit

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
)

// randomMix is a mix of classes like those of the random requests.
func randomMix(r *rand.Rand) Mix {
	counts := map[Class]int64{}
	for range r.IntN(6) {
		counts[ClassOf(randomRequest(r), int64(r.IntN(4))*1000)] += int64(1 + r.IntN(9))
	}
	return NewMix(counts)
}

// rounds runs f with a generator of its own for every seed, and names the seed when it fails.
func rounds(t *testing.T, n int, f func(t *testing.T, r *rand.Rand)) {
	t.Helper()
	if testing.Short() {
		n /= 10
	}
	for seed := range uint64(n) {
		r := rand.New(rand.NewPCG(seed, 20_26))
		f(t, r)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// Check must be right about every small node; Assign must place what Check accepts, by every strategy; Score must rate
// that placement.
func TestCheckAssignAndScoreAgreeWithTryingAllWays(t *testing.T) {
	counted := map[string]int{}
	rounds(t, 1500, func(t *testing.T, r *rand.Rand) {
		n := randomNode(r)
		request := requestFor(r, n)
		cpu := CPU{FreeMilli: int64(r.IntN(5)) * 1000, AskMilli: int64(r.IntN(3)) * 1000}
		reason := Check(n, request)
		fits, known := dumbFits(n, request)
		if known && fits != (reason == Fits) {
			t.Errorf("Check says %v; there is a place: %t\n%s", reason, fits, describe(n, request))
			return
		}
		counted[fmt.Sprintf("known: %t", known)]++
		counted[reason.String()]++
		for _, s := range []Strategy{nil, Fragmentation{Mix: randomMix(r)}, BestFit{}, Spread{}} {
			a, err := Assign(n, request, cpu, s)
			if reason != Fits {
				if !errors.Is(err, ErrDoesNotFit) || !a.Empty() {
					t.Errorf("%T: Check says %v, Assign %q and %v\n%s", s, reason, a, err, describe(n, request))
				}
				if s != nil && Score(n, request, cpu, s) != 0 {
					t.Errorf("%T: Check says %v, the score is %d\n%s", s, reason, Score(n, request, cpu, s), describe(n, request))
				}
				continue
			}
			if err != nil {
				t.Errorf("%T: Check says it fits, Assign %v\n%s", s, err, describe(n, request))
				continue
			}
			checkPlacement(t, n, request, a)
			checkLinks(t, n, request, a)
			if s != nil {
				checkScore(t, n, request, cpu, s, a)
			}
		}
	})
	t.Log(counted)
	if counted["Fits"] < 300 && !testing.Short() {
		t.Errorf("only %d requests fit: the test says little", counted["Fits"])
	}
}

func checkPlacement(t *testing.T, n *cluster.Node, r gpu.Request, a gpu.Assignment) {
	t.Helper()
	if err := a.Validate(); err != nil {
		t.Errorf("%q: %v\n%s", a, err, describe(n, r))
		return
	}
	if !r.SatisfiedBy(a) {
		t.Errorf("%q is not what is asked for\n%s", a, describe(n, r))
	}
	if why := legal(n, dumbGPUs(n), r, a); why != "" {
		t.Errorf("%q: %s\n%s", a, why, describe(n, r))
	}
	p := cluster.NewPod("new", "ns/new", a)
	if before, after := n.Conflicts(), n.With(p).Conflicts(); !slices.Equal(before, after) {
		t.Errorf("%q: conflicts %q, before %q\n%s", a, after, before, describe(n, r))
	}
	if err := n.CanGive(p); err != nil {
		t.Errorf("%q: %v\n%s", a, err, describe(n, r))
	}
	// An unplaced pod must still find its GPUs idle, as far as they were.
	after, w := n.With(p), n.Withheld
	if after.IdleGPUs < min(n.IdleGPUs, w.GPUs-w.Shared) || after.IdleShared < min(n.IdleShared, w.Shared) {
		t.Errorf("%q leaves %d and %d idle GPUs, %v are withheld\n%s", a, after.IdleGPUs, after.IdleShared, w, describe(n, r))
	}
}

func checkScore(t *testing.T, n *cluster.Node, r gpu.Request, cpu CPU, s Strategy, a gpu.Assignment) {
	t.Helper()
	var before, after View
	viewOf(&before, n, cpu.FreeMilli)
	viewOf(&after, n.With(cluster.NewPod("new", "ns/new", a)), cpu.FreeMilli-cpu.AskMilli)
	want := 4 * s.Rate(&before, &after, -1).Node
	missing, worse := dumbLoss(n, r, a)
	if !missing {
		want += 4 * (MaxRating + 1)
	}
	if !worse {
		want += 2
	}
	if n.Used() {
		want++
	}
	want = want<<leftBits | maxLeft - before.MilliGPU()
	got := Score(n, r, cpu, s)
	if got != want || got < 0 || got > MaxScore {
		t.Errorf("%T: the score is %d; that of the placement %q is %d\n%s", s, got, a, want, describe(n, r))
	}
	m := NewMemo(s).For(r)
	for range 2 {
		if again := m.Score(n, cpu); again != got {
			t.Errorf("%T: the score is %d, by the memo %d\n%s", s, got, again, describe(n, r))
		}
	}
}

// Waiting for pods to end, or preempting them, can help if and only if the request fits the node without its pods.
func TestResolvableMeansThatTheEmptyNodeWouldDo(t *testing.T) {
	counted := map[Reason]int{}
	rounds(t, 1500, func(t *testing.T, r *rand.Rand) {
		n := randomNode(r)
		request := requestFor(r, n)
		reason := Check(n, request)
		if reason == Fits {
			return
		}
		counted[reason]++
		empty, known := dumbFits(cluster.NewNode(n.Name, n.Inventory, nil), request)
		if known && empty != reason.Resolvable() {
			t.Errorf("%v is resolvable: %t; there is a place on the empty node: %t\n%s", reason, reason.Resolvable(), empty, describe(n, request))
		}
		e := Explain(n, request)
		if e.Reason != reason {
			t.Errorf("Check says %v, Explain %v\n%s", reason, e.Reason, describe(n, request))
		}
		if reason != NoGPU && e.Detail == "" {
			t.Errorf("%v has no detail\n%s", reason, describe(n, request))
		}
		healthy := slices.Clone(n.Inventory.Devices)
		for i := range healthy {
			healthy[i].Unhealthy = false
		}
		cured, known := dumbFits(cluster.NewNode(n.Name, cluster.NewInventory(cluster.SourceSlices, healthy), nil), request)
		if known && reason == GPUUnhealthy && !cured {
			t.Errorf("%v, but with healthy GPUs there is no place either\n%s", reason, describe(n, request))
		}
		if known && reason == TooFewGPUs && cured {
			t.Errorf("%v, but with healthy GPUs there is a place\n%s", reason, describe(n, request))
		}
	})
	t.Log(counted)
	for _, reason := range []Reason{
		NoGPU, GPUProductMismatch, SharingUnsupported, NoMIGProfile, GPUMemoryTooSmall, TooFewGPUs, GPUUnhealthy, GPUWithheld,
		InsufficientGPU, InsufficientGPUShare, InsufficientGPUMemory, NoMIGPlacement,
	} {
		if counted[reason] == 0 && !testing.Short() {
			t.Errorf("no request was refused for %v: the test says nothing of it", reason)
		}
	}
}

// The same node, its pods in another order, its GPUs named otherwise: the same decision.
func TestDecisionsDependOnWhatANodeIsLikeOnly(t *testing.T) {
	rounds(t, 1500, func(t *testing.T, r *rand.Rand) {
		n := randomNode(r)
		request := requestFor(r, n)
		cpu := CPU{FreeMilli: 3000, AskMilli: 1000}
		s := []Strategy{Fragmentation{Mix: randomMix(r)}, BestFit{}, Spread{}}[r.IntN(3)]
		a, err := Assign(n, request, cpu, s)

		pods := slices.Clone(n.Pods)
		r.Shuffle(len(pods), func(i, j int) { pods[i], pods[j] = pods[j], pods[i] })
		other := cluster.NewNode("other", n.Inventory, pods)
		b, errB := Assign(other, request, cpu, s)
		if a.String() != b.String() || !errors.Is(errB, err) {
			t.Errorf("%q and %v; pods in another order: %q and %v\n%s", a, err, b, errB, describe(n, request))
		}

		// Pods that hold the same in other portions, on GPUs of other names.
		renamed := slices.Clone(n.Inventory.Devices)
		for i := range renamed {
			renamed[i].ID, renamed[i].Index = "other-"+renamed[i].ID, 2*renamed[i].Index+1
			renamed[i].Instances = slices.Clone(renamed[i].Instances)
			renamed[i].Hardware = renumbered(renamed[i].Hardware)
		}
		for i, p := range pods {
			if p.Unplaced.Empty() {
				pods[i] = cluster.NewPod(fmt.Sprint(len(pods)-i), p.Name, rename(p.Assignment))
			}
		}
		other = cluster.NewNode("other", cluster.NewInventory(cluster.SourceSlices, renamed), pods)
		if n.Signature != other.Signature {
			t.Errorf("nodes that are alike have two signatures\n%s", describe(n, request))
		}
		if x, y := Check(n, request), Check(other, request); x != y {
			t.Errorf("Check says %v and, of GPUs of other names, %v\n%s", x, y, describe(n, request))
		}
		if x, y := Score(n, request, cpu, s), Score(other, request, cpu, s); x != y {
			t.Errorf("%T: the score is %d and, of GPUs of other names, %d\n%s", s, x, y, describe(n, request))
		}
		c, _ := Assign(other, request, cpu, s)
		if rename(a).String() != c.String() {
			t.Errorf("%T: %q and, of GPUs of other names, %q\n%s", s, a, c, describe(n, request))
		}
	})
}

func rename(a gpu.Assignment) gpu.Assignment {
	var out gpu.Assignment
	for _, c := range a.Containers {
		c.Grants = slices.Clone(c.Grants)
		for i := range c.Grants {
			c.Grants[i].GPU = "other-" + c.Grants[i].GPU
		}
		out.Containers = append(out.Containers, c)
	}
	return out
}
