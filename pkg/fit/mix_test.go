package fit

import (
	"cmp"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
)

// holding is a node of plain GPUs of 100 MiB, or of those given, with one pod that holds the assignment.
func holding(t *testing.T, assignment string, devices ...gpu.Device) *cluster.Node {
	t.Helper()
	a, err := gpu.ParseAssignment(assignment)
	if err != nil {
		t.Fatal(err)
	}
	n := cluster.NewNode("n", cluster.NewInventory(cluster.SourceSlices, devices), nil)
	if a.Empty() {
		return n
	}
	return n.With(cluster.NewPod("other", "ns/other", a))
}

func plain(index int) gpu.Device {
	return gpu.Device{ID: gpu.ID("g" + string(rune('0'+index))), Index: index, Product: "A", MemoryMiB: 100}
}

func partitioned(index int, offers []gpu.Instance) gpu.Device {
	d := plain(index)
	d.MIG, d.Instances = true, offers
	return d
}

func shareClass(milli int64, count int) Class {
	return Class{Kind: gpu.Shared, MilliGPU: milli, Count: count}
}

func wholeClass(count int) Class { return Class{Kind: gpu.Whole, MilliGPU: 1000, Count: count} }

func migClass(profile string, count int) Class {
	return Class{Kind: gpu.MIG, Profile: profile, Count: count}
}

func TestFragmentOfHandComputedNodes(t *testing.T) {
	wholeOnly, sharedOnly, sick, other := plain(0), plain(0), plain(1), plain(1)
	wholeOnly.WholeOnly, sharedOnly.SharedOnly, sick.Unhealthy, other.Product = true, true, true, "B"
	three := []gpu.Device{plain(0), plain(1), plain(2)} // of which 500, 1000 and 300 milli-GPU are left
	taken := "c=g0:500m/1Mi,g2:700m/1Mi"
	with := func(c Class, milliCPU int64, products ...string) Class {
		c.MilliCPU, c.Products = milliCPU, strings.Join(products, "\n")
		return c
	}
	tests := map[string]struct {
		node  *cluster.Node
		cpu   int64
		class Class
		want  int64 // milli-GPU
	}{
		"nothing is left": {holding(t, "c=g0", plain(0)), 0, shareClass(1, 1), 0},
		"all is of use":   {holding(t, taken, three...), 0, shareClass(300, 1), 0},
		"what is left of the GPU that is too full": {holding(t, taken, three...), 0, shareClass(301, 1), 300},
		"of two that are too full":                 {holding(t, taken, three...), 0, shareClass(501, 1), 800},
		"two whole GPUs find one, so none helps":   {holding(t, taken, three...), 0, wholeClass(2), 1800},
		"one whole GPU":                            {holding(t, taken, three...), 0, wholeClass(1), 800},
		"shares of three GPUs":                     {holding(t, taken, three...), 0, shareClass(300, 3), 0},
		"shares of three GPUs, where two would do": {holding(t, taken, three...), 0, shareClass(400, 3), 1800},
		"a request without GPUs uses nothing":      {holding(t, taken, three...), 0, Class{MilliCPU: 1}, 1800},
		"too little CPU":                           {holding(t, taken, three...), 999, with(shareClass(1, 1), 1000), 1800},
		"just enough CPU":                          {holding(t, taken, three...), 1000, with(shareClass(1, 1), 1000), 0},
		"no CPU left, none wanted":                 {holding(t, taken, three...), 0, with(shareClass(1, 1), 0), 0},
		"CPU that is overbooked":                   {holding(t, taken, three...), -1, with(shareClass(1, 1), 0), 1800},
		"a GPU of another model":                   {holding(t, "", plain(0), other), 0, with(wholeClass(1), 0, "A"), 1000},
		"two of different models":                  {holding(t, "", plain(0), other), 0, with(wholeClass(2), 0, "A"), 2000},
		"either model":                             {holding(t, "", plain(0), other), 0, with(wholeClass(2), 0, "A", "B"), 0},
		"no GPU of the model":                      {holding(t, "", plain(0), other), 0, with(shareClass(1, 1), 0, "C"), 2000},
		"a GPU that is not shared":                 {holding(t, "", wholeOnly, plain(1)), 0, shareClass(1, 1), 1000},
		"a whole GPU that is not shared":           {holding(t, "", wholeOnly, plain(1)), 0, wholeClass(2), 0},
		"a whole GPU where one is only shared":     {holding(t, "", sharedOnly, plain(1)), 0, wholeClass(1), 1000},
		"two whole GPUs where one is only shared":  {holding(t, "", sharedOnly, plain(1)), 0, wholeClass(2), 2000},
		"a share of a GPU that is only shared":     {holding(t, "", sharedOnly, plain(1)), 0, shareClass(1000, 2), 0},
		"an unhealthy GPU is not idle capacity":    {holding(t, "", plain(0), sick), 0, migClass("1g.6gb", 1), 1000},

		// An A30 has four memory slices of 250 milli-GPU each.
		"an instance anywhere":                      {holding(t, "", partitioned(0, onDemand)), 0, migClass("1g.6gb", 1), 0},
		"as many as there are":                      {holding(t, "", partitioned(0, onDemand)), 0, migClass("1g.6gb", 4), 0},
		"one more than there are":                   {holding(t, "", partitioned(0, onDemand)), 0, migClass("1g.6gb", 5), 1000},
		"beside one that is taken":                  {holding(t, "c=g0:1g.6gb@0:1", partitioned(0, onDemand)), 0, migClass("2g.12gb", 1), 250},
		"two where one fits":                        {holding(t, "c=g0:1g.6gb@0:1", partitioned(0, onDemand)), 0, migClass("2g.12gb", 2), 750},
		"the whole, beside one that is taken":       {holding(t, "c=g0:1g.6gb@0:1", partitioned(0, onDemand)), 0, migClass("4g.24gb", 1), 750},
		"media extensions, of which there is one":   {holding(t, "", partitioned(0, onDemand)), 0, migClass("1g.6gb+me", 2), 1000},
		"two GPUs give one each":                    {holding(t, "", partitioned(0, onDemand), partitioned(1, onDemand)), 0, migClass("1g.6gb+me", 2), 0},
		"a share of a GPU in MIG mode":              {holding(t, "", partitioned(0, onDemand), plain(1)), 0, shareClass(1, 1), 1000},
		"an instance of a GPU not in MIG mode":      {holding(t, "", partitioned(0, onDemand), plain(1)), 0, migClass("4g.24gb", 1), 1000},
		"instances that exist, and one of them":     {holding(t, "", partitioned(0, fixed)), 0, migClass("2g.12gb", 1), 500},
		"an A100, whose last slice is not for a 1g": {holding(t, "", partitioned(0, large)), 0, migClass("1g.10gb", 1), 125},
		"an A100 with its last slices taken":        {holding(t, "c=g0:1g.10gb@6:1", partitioned(0, large)), 0, migClass("3g.40gb", 1), 375},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			m := NewMix(map[Class]int64{tc.class: 3})
			var v View
			viewOf(&v, tc.node, tc.cpu)
			if got := m.FragmentMicroGPU(&v); got != tc.want*1000 {
				t.Errorf("got %d micro-GPU, want %d", got, tc.want*1000)
			}
		})
	}
}

func TestFragmentIsTheMeanOverTheMix(t *testing.T) {
	n := holding(t, "c=g0:500m/1Mi", plain(0), plain(1)) // 500 and 1000 left
	var v View
	viewOf(&v, n, 1000)
	// Of six requests three find nothing of use (1500), two everything (0), one what is left of g0 (500).
	m := NewMix(map[Class]int64{wholeClass(2): 3, shareClass(100, 1): 2, wholeClass(1): 1})
	if got, want := m.FragmentMicroGPU(&v), int64((3*1500+1*500)*1000/6); got != want {
		t.Errorf("got %d, want %d", got, want)
	}
	if got := (&Mix{}).FragmentMicroGPU(&v); got != 0 {
		t.Errorf("of no mix: %d", got)
	}
}

// dumbSorted is the order of the classes of a mix: by how often they came, then by size.
func dumbSorted(counts map[Class]int64) []Class {
	var out []Class
	for c, n := range counts {
		if n > 0 {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b Class) int {
		return -cmp.Or(cmp.Compare(counts[a], counts[b]), cmp.Compare(a.MilliCPU, b.MilliCPU), cmp.Compare(a.MilliGPU, b.MilliGPU),
			cmp.Compare(a.Count, b.Count), cmp.Compare(a.Products, b.Products), cmp.Compare(b.Kind, a.Kind), cmp.Compare(b.Profile, a.Profile))
	})
	return out
}

// dumbFragment is F_n(M) of the paper for the classes that together make 95 percent.
func dumbFragment(n *cluster.Node, milliCPU int64, counts map[Class]int64) int64 {
	var all, covered int64
	for _, count := range counts {
		all += max(0, count)
	}
	sum := new(big.Rat)
	for _, c := range dumbSorted(counts) {
		if covered*20 >= all*19 {
			break
		}
		covered += counts[c]
		sum.Add(sum, big.NewRat(counts[c]*dumbUseless(n, milliCPU, c), 1))
	}
	if covered == 0 {
		return 0
	}
	sum.Mul(sum, big.NewRat(1000, covered))
	return new(big.Int).Quo(sum.Num(), sum.Denom()).Int64()
}

// dumbUseless is F_n(m): what is left of the node that requests of the class cannot use, in milli-GPU.
func dumbUseless(n *cluster.Node, milliCPU int64, c Class) int64 {
	var all, useful int64
	places := 0
	for _, g := range dumbGPUs(n) {
		if g.Unhealthy || g.whole {
			continue
		}
		accepted := c.Products == "" || slices.Contains(strings.Split(c.Products, "\n"), g.Product)
		if !g.MIG {
			if len(g.instances) > 0 {
				continue
			}
			left := max(0, 1000-g.milli)
			all += left
			if accepted && (c.Kind == gpu.Whole && left == 1000 && !g.SharedOnly || c.Kind == gpu.Shared && left >= c.MilliGPU && !g.WholeOnly) {
				useful += left
				places++
			}
			continue
		}
		if g.milli > 0 {
			continue
		}
		// Slices that anything, and that the profile, can cover.
		total, free, usable, mine := map[int]bool{}, map[int]bool{}, map[int]bool{}, 0
		for _, i := range g.Instances {
			gives := g.gives(i, nil)
			for s := i.Start; s < i.Start+i.Size; s++ {
				total[s] = true
				if !slices.ContainsFunc(g.instances, func(o gpu.Instance) bool { return s >= o.Start && s < o.Start+o.Size }) {
					free[s] = true
				}
				if gives && i.Profile == c.Profile {
					usable[s] = true
				}
			}
			if gives && i.Profile == c.Profile {
				mine++
			}
		}
		if len(total) == 0 {
			continue
		}
		if media(gpu.Instance{Profile: c.Profile}) && g.onDemand {
			mine = min(mine, 1)
		}
		all += 1000 * int64(len(free)) / int64(len(total))
		if accepted && c.Kind == gpu.MIG {
			useful += 1000 * int64(len(usable)) / int64(len(total))
			places += mine
		}
	}
	if c.Kind == 0 || c.MilliCPU > milliCPU || places < c.Count {
		return all
	}
	return all - useful
}

func TestFragmentAgreesWithTheDefinition(t *testing.T) {
	some := 0
	rounds(t, 1000, func(t *testing.T, r *rand.Rand) {
		n := randomNode(r)
		counts := map[Class]int64{}
		for range r.IntN(12) {
			c := ClassOf(randomRequest(r), int64(r.IntN(4))*1000)
			if r.IntN(4) == 0 {
				c = Class{MilliCPU: c.MilliCPU}
			}
			counts[c] = int64(r.IntN(30) - 1)
		}
		m := NewMix(counts)
		milliCPU := int64(r.IntN(9)-1) * 500
		var v View
		viewOf(&v, n, milliCPU)
		got, want := m.FragmentMicroGPU(&v), dumbFragment(n, milliCPU, counts)
		if got != want {
			t.Errorf("got %d, want %d with %d mCPU and %v\n%s", got, want, milliCPU, counts, describe(n, gpu.Request{}))
		}
		if got < 0 || got > v.MilliGPU()*1000 {
			t.Errorf("got %d micro-GPU of %d milli-GPU", got, v.MilliGPU())
		}
		if got > 0 && got < v.MilliGPU()*1000 {
			some++
		}
	})
	if some < 100 && !testing.Short() {
		t.Errorf("only %d times was the fragment neither nothing nor all: the test says little", some)
	}
}

// classesOf is what the mix has of classes that ask for GPUs.
func classesOf(m Mix) map[Class]int64 {
	out := map[Class]int64{}
	for _, g := range m.groups {
		for k, cpu := range m.cpus {
			if n := g.fits[k+1] - g.fits[k]; n > 0 {
				c := g.Class
				c.MilliCPU = cpu
				out[c] = n
			}
		}
	}
	return out
}

func TestNewMixCovers95Percent(t *testing.T) {
	class := func(n int) Class { return shareClass(int64(n), 1) }
	tests := map[string]struct {
		counts map[Class]int64
		want   map[Class]int64
	}{
		"nothing":                          {nil, map[Class]int64{}},
		"one class":                        {map[Class]int64{class(1): 1}, map[Class]int64{class(1): 1}},
		"exactly 95 percent are enough":    {map[Class]int64{class(1): 95, class(2): 5}, map[Class]int64{class(1): 95}},
		"a little less is not":             {map[Class]int64{class(1): 949, class(2): 51}, map[Class]int64{class(1): 949, class(2): 51}},
		"the shortest prefix":              {map[Class]int64{class(1): 50, class(2): 30, class(3): 15, class(4): 3, class(5): 2}, map[Class]int64{class(1): 50, class(2): 30, class(3): 15}},
		"counts below one do not count":    {map[Class]int64{class(1): 0, class(2): -7, class(3): 1}, map[Class]int64{class(3): 1}},
		"requests without GPUs count":      {map[Class]int64{{MilliCPU: 1}: 95, class(1): 5}, map[Class]int64{}},
		"requests without GPUs among them": {map[Class]int64{{MilliCPU: 1}: 50, class(1): 50}, map[Class]int64{class(1): 50}},
		"classes that differ in CPU only": {
			map[Class]int64{{MilliCPU: 1, Kind: gpu.Whole, Count: 1, MilliGPU: 1000}: 2, {MilliCPU: 5, Kind: gpu.Whole, Count: 1, MilliGPU: 1000}: 3},
			map[Class]int64{{MilliCPU: 1, Kind: gpu.Whole, Count: 1, MilliGPU: 1000}: 2, {MilliCPU: 5, Kind: gpu.Whole, Count: 1, MilliGPU: 1000}: 3},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := gocmp.Diff(tc.want, classesOf(NewMix(tc.counts))); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
	if got := NewMix(map[Class]int64{{MilliCPU: 1}: 50, class(1): 50}).classes; got != 2 {
		t.Errorf("%d classes, want 2: a class without GPUs is one", got)
	}
}

// Of classes that came equally often, the larger is kept: the one with more CPU, then the larger share, then more GPUs,
// then the later models.
func TestNewMixKeepsTheLargerOfEqualCounts(t *testing.T) {
	base := Class{MilliCPU: 1000, Kind: gpu.Shared, Count: 1, MilliGPU: 500, Products: "B"}
	change := func(f func(*Class)) Class { c := base; f(&c); return c }
	tests := map[string]struct{ larger, smaller Class }{
		"CPU":                   {change(func(c *Class) { c.MilliCPU = 2000 }), base},
		"CPU before share":      {change(func(c *Class) { c.MilliCPU, c.MilliGPU = 2000, 1 }), base},
		"share":                 {base, change(func(c *Class) { c.MilliGPU = 499 })},
		"share before count":    {base, change(func(c *Class) { c.MilliGPU, c.Count = 499, 8 })},
		"count":                 {change(func(c *Class) { c.Count = 2 }), base},
		"count before models":   {change(func(c *Class) { c.Count, c.Products = 2, "A" }), base},
		"models":                {base, change(func(c *Class) { c.Products = "A" })},
		"some model before any": {base, change(func(c *Class) { c.Products = "" })},
		"profile, for MIG":      {migClass("1g.10gb", 1), migClass("2g.20gb", 1)},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			common := wholeClass(7)
			m := NewMix(map[Class]int64{common: 90, tc.larger: 5, tc.smaller: 5})
			if diff := gocmp.Diff(map[Class]int64{common: 90, tc.larger: 5}, classesOf(m)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestClassOf(t *testing.T) {
	whole := func(n int) gpu.Ask { return gpu.Ask{Kind: gpu.Whole, Count: n} }
	share := func(n int, milli int64) gpu.Ask { return gpu.Ask{Kind: gpu.Shared, Count: n, MilliGPU: milli} }
	instances := func(n int, profile string) gpu.Ask { return gpu.Ask{Kind: gpu.MIG, Count: n, Profile: profile} }
	c := func(name string, asks ...gpu.Ask) gpu.ContainerRequest {
		return gpu.ContainerRequest{Name: name, Asks: asks}
	}
	setup := func(name string, asks ...gpu.Ask) gpu.ContainerRequest {
		return gpu.ContainerRequest{Name: name, Init: true, Asks: asks}
	}
	tests := map[string]struct {
		containers []gpu.ContainerRequest
		products   []string
		want       Class
	}{
		"no GPUs":                           {nil, nil, Class{MilliCPU: 7}},
		"whole GPUs":                        {[]gpu.ContainerRequest{c("a", whole(2))}, nil, Class{MilliCPU: 7, Kind: gpu.Whole, Count: 2, MilliGPU: 1000}},
		"a share":                           {[]gpu.ContainerRequest{c("a", share(2, 250))}, nil, Class{MilliCPU: 7, Kind: gpu.Shared, Count: 2, MilliGPU: 250}},
		"instances":                         {[]gpu.ContainerRequest{c("a", instances(2, "1g.10gb"))}, nil, Class{MilliCPU: 7, Kind: gpu.MIG, Count: 2, Profile: "1g.10gb"}},
		"models":                            {[]gpu.ContainerRequest{c("a", whole(1))}, []string{"A", "B"}, Class{MilliCPU: 7, Kind: gpu.Whole, Count: 1, MilliGPU: 1000, Products: "A\nB"}},
		"whole GPUs of several":             {[]gpu.ContainerRequest{c("a", whole(2)), c("b", whole(1))}, nil, Class{MilliCPU: 7, Kind: gpu.Whole, Count: 3, MilliGPU: 1000}},
		"shares of several, as the largest": {[]gpu.ContainerRequest{c("a", share(2, 250)), c("b", share(1, 300)), c("d", share(1, 1))}, nil, Class{MilliCPU: 7, Kind: gpu.Shared, Count: 4, MilliGPU: 300}},
		"whole before shares":               {[]gpu.ContainerRequest{c("a", share(2, 250)), c("b", whole(1)), c("d", share(1, 300))}, nil, Class{MilliCPU: 7, Kind: gpu.Whole, Count: 1, MilliGPU: 1000}},
		"shares before instances":           {[]gpu.ContainerRequest{c("a", instances(2, "1g.10gb")), c("b", share(1, 300)), c("d", instances(2, "1g.10gb"))}, nil, Class{MilliCPU: 7, Kind: gpu.Shared, Count: 1, MilliGPU: 300}},
		"whole before instances":            {[]gpu.ContainerRequest{c("a", whole(1), instances(2, "1g.10gb"))}, nil, Class{MilliCPU: 7, Kind: gpu.Whole, Count: 1, MilliGPU: 1000}},
		"instances of the first profile":    {[]gpu.ContainerRequest{c("a", instances(1, "2g.20gb"), instances(2, "1g.10gb")), c("b", instances(3, "2g.20gb"))}, nil, Class{MilliCPU: 7, Kind: gpu.MIG, Count: 4, Profile: "2g.20gb"}},
		"what runs in the end":              {[]gpu.ContainerRequest{setup("a", whole(2)), c("b", share(1, 300))}, nil, Class{MilliCPU: 7, Kind: gpu.Shared, Count: 1, MilliGPU: 300}},
		"init containers, if only those":    {[]gpu.ContainerRequest{setup("a", whole(2))}, nil, Class{MilliCPU: 7, Kind: gpu.Whole, Count: 2, MilliGPU: 1000}},
		"the first init container":          {[]gpu.ContainerRequest{setup("a", share(1, 100)), setup("b", whole(1))}, nil, Class{MilliCPU: 7, Kind: gpu.Shared, Count: 1, MilliGPU: 100}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := ClassOf(gpu.Request{Containers: tc.containers, Products: tc.products}, 7)
			if diff := gocmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestRecentIsTheMixOfTheWindow(t *testing.T) {
	for _, window := range []int{-3, 0, 1, 5, 64} {
		r := rand.New(rand.NewPCG(uint64(window), 3))
		recent := NewRecent(window)
		var all []Class
		for range 300 {
			c := shareClass(int64(1+r.IntN(9)), 1)
			recent.Observe(c)
			all = append(all, c)
			counts := map[Class]int64{}
			for _, c := range all[max(0, len(all)-max(1, window)):] {
				counts[c]++
			}
			if diff := gocmp.Diff(classesOf(NewMix(counts)), classesOf(recent.Mix())); diff != "" {
				t.Fatalf("window %d after %d: -want +got\n%s", window, len(all), diff)
			}
		}
	}
}

func TestRecentRefreshesSeldom(t *testing.T) {
	tests := map[int][]int{
		1:    {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12},
		64:   {1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 72},
		2048: {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024},
	}
	for window, want := range tests {
		recent := NewRecent(window)
		var got []int
		for i := 1; len(got) < len(want); i++ {
			if recent.Observe(shareClass(1, 1)) {
				got = append(got, i)
			}
		}
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("window %d: -want +got\n%s", window, diff)
		}
	}
}
