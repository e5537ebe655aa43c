package fit

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
)

func TestRank(t *testing.T) {
	tests := map[string]struct {
		names  []string
		scores []int64
		want   []int64
	}{
		"no node":                       {nil, nil, []int64{}},
		"one node":                      {[]string{"a"}, []int64{0}, []int64{100}},
		"by score":                      {[]string{"a", "b", "c"}, []int64{1, MaxScore, 0}, []int64{99, 100, 98}},
		"beyond the scores that can be": {[]string{"a", "b", "c"}, []int64{-5, MaxScore + 1, 7}, []int64{98, 100, 99}},
		// In the order of the names' hashes: a, c, b.
		"equal scores": {[]string{"a", "b", "c"}, []int64{7, 7, 7}, []int64{100, 98, 99}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, Rank(tc.names, tc.scores)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestNameKeyIsTheHashThatItSaysItIs(t *testing.T) {
	for _, name := range []string{"", "a", "b", "c", "gpu-node-17.example.com", "ü"} {
		h := fnv.New64a()
		h.Write([]byte(name))
		if got := nameKey(name); got != h.Sum64() {
			t.Errorf("%q: got %x, want %x", name, got, h.Sum64())
		}
	}
}

func TestRankIsOneOrderWhateverTheInputOrder(t *testing.T) {
	rounds(t, 150, func(t *testing.T, r *rand.Rand) {
		n := r.IntN(150)
		scoreOf := map[string]int64{}
		var names []string
		var scores []int64
		for i := range n {
			name := fmt.Sprintf("node-%d", i)
			scoreOf[name] = int64(r.IntN(1 + r.IntN(MaxScore)))
			names, scores = append(names, name), append(scores, scoreOf[name])
		}
		first := map[string]int64{}
		for i, rank := range Rank(names, scores) {
			first[names[i]] = rank
		}
		r.Shuffle(n, func(i, j int) {
			names[i], names[j] = names[j], names[i]
			scores[i], scores[j] = scores[j], scores[i]
		})
		taken := map[int64]string{}
		for i, rank := range Rank(names, scores) {
			name := names[i]
			if rank != first[name] {
				t.Errorf("%s has rank %d and, in another order, %d", name, first[name], rank)
			}
			if rank < 0 || rank > 100 {
				t.Errorf("%s has rank %d", name, rank)
			}
			if other, ok := taken[rank]; ok && rank > 0 {
				t.Errorf("%s and %s have rank %d", name, other, rank)
			}
			taken[rank] = name
		}
		for a, rankA := range first {
			for b, rankB := range first {
				if scoreOf[a] > scoreOf[b] && rankA < rankB {
					t.Errorf("%s of score %d has rank %d, %s of score %d rank %d", a, scoreOf[a], rankA, b, scoreOf[b], rankB)
				}
			}
		}
		for rank := max(0, 101-n); rank <= 100; rank++ {
			if _, ok := taken[int64(rank)]; !ok {
				t.Errorf("of %d nodes none has rank %d", n, rank)
			}
		}
	})
}

// A request's order of equal nodes is one of the names alone: adding nodes does not turn others around.
func TestRankOfEqualNodesDoesNotDependOnOthers(t *testing.T) {
	small := Rank([]string{"a", "b"}, []int64{5, 5})
	large := Rank([]string{"x", "b", "y", "a", "z"}, []int64{5, 5, 9, 5, 5})
	if (small[0] > small[1]) != (large[3] > large[1]) {
		t.Errorf("a and b: %v; among others: %v", small, large)
	}
}

func TestMemoAnswersAsWithoutIt(t *testing.T) {
	rounds(t, 150, func(t *testing.T, r *rand.Rand) {
		s := []Strategy{Fragmentation{Mix: randomMix(r)}, BestFit{}, Spread{}}[r.IntN(3)]
		m := NewMemo(s)
		// Few requests and nodes that change, so that answers are found again, for other nodes and at other times.
		var requests []gpu.Request
		for range 3 {
			requests = append(requests, randomRequest(r))
		}
		requests = append(requests, gpu.Request{})
		nodes := []*cluster.Node{randomNode(r), randomNode(r), randomNode(r)}
		for range 60 {
			n, request := pick(r, nodes), pick(r, requests)
			cpu := CPU{FreeMilli: int64(r.IntN(8)) * 500, AskMilli: int64(r.IntN(3)) * 1000}
			memo := m.For(request)
			if m.For(request) != memo {
				t.Error("two memos for one request")
			}
			if got, want := memo.Check(n), Check(n, request); got != want {
				t.Errorf("the memo says %v, Check %v\n%s", got, want, describe(n, request))
			}
			if got, want := memo.Score(n, cpu), Score(n, request, cpu, s); got != want {
				t.Errorf("%T: the memo says %d, Score %d\n%s", s, got, want, describe(n, request))
			}
		}
	})
}

func TestCPUKeyTellsApartWhatTheRatingDoes(t *testing.T) {
	rounds(t, 150, func(t *testing.T, r *rand.Rand) {
		n := randomNode(r)
		for _, s := range []Strategy{Fragmentation{Mix: randomMix(r)}, BestFit{}, Spread{}} {
			seen := map[int64]Rating{}
			for milli := int64(-500); milli <= 5000; milli += 250 {
				var before, after View
				viewOf(&before, n, 9000)
				viewOf(&after, n, milli)
				rating := s.Rate(&before, &after, -1)
				if other, ok := seen[s.CPUKey(milli)]; ok && other != rating {
					t.Errorf("%T: %d mCPU is rated %v, another of its key %v", s, milli, rating, other)
				}
				seen[s.CPUKey(milli)] = rating
			}
		}
	})
}

func TestMemoIsBounded(t *testing.T) {
	m := NewMemo(Spread{})
	first := m.For(asking(share(1)))
	for i := range 3 * memoShapes {
		m.For(asking(gpu.Ask{Kind: gpu.Shared, Count: 1, MilliGPU: int64(i%1000 + 1), MemoryMiB: int64(i)}))
		if len(m.shapes) > memoShapes {
			t.Fatalf("%d shapes", len(m.shapes))
		}
	}
	// Whoever still uses a memo that was let go gets right answers.
	n := left(t, 500)
	if got, want := first.Check(n), Check(n, asking(share(1))); got != want {
		t.Errorf("got %v, want %v", got, want)
	}

	m = NewMemo(BestFit{})
	r := asking(share(1))
	for i := range 100 {
		m.For(r).Score(n, CPU{FreeMilli: int64(i)})
		m.For(r).Check(n)
	}
	if got := m.answers.Load(); got != 101 {
		t.Errorf("%d answers are counted, 101 are kept", got)
	}
	m.answers.Store(memoAnswers)
	if kept := m.For(r); m.answers.Load() != 0 || len(m.shapes) != 1 || kept.Check(n) != Fits {
		t.Errorf("%d answers and %d shapes after there were too many", m.answers.Load(), len(m.shapes))
	}
}

func TestDecisionsFromManyGoroutinesAtOnce(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var nodes []*cluster.Node
	var requests []gpu.Request
	for range 20 {
		nodes, requests = append(nodes, randomNode(r)), append(requests, randomRequest(r))
	}
	m := NewMemo(Fragmentation{Mix: randomMix(r)})
	answers := func() string {
		var out strings.Builder
		for i, n := range nodes {
			memo := m.For(requests[i])
			a, _ := Assign(n, requests[i], CPU{}, m.strategy)
			fmt.Fprintln(&out, memo.Check(n), memo.Score(n, CPU{}), a, Score(n, requests[i], CPU{}, Spread{}))
		}
		return out.String()
	}
	want := answers()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if diff := cmp.Diff(want, answers()); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
	wg.Wait()
}
