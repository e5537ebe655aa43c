package report

import (
	"cmp"
	"slices"
)

// maxMapBytes bounds what a map adds to the file, before base64 makes it a third more: three runs on the 6,212 GPUs of the openb
// trace have room for 60 frames each.
const maxMapBytes = 1_500_000

// liveMap is what the script draws the map from.
type liveMap struct {
	// Groups are the nodes of one model each.
	Groups []liveGroup `json:"groups"`
	Runs   []MapRun    `json:"runs"`
}

type liveGroup struct {
	Model string     `json:"model"`
	Nodes []liveNode `json:"nodes"`
}

type liveNode struct {
	Name string `json:"name"`
	GPUs int    `json:"gpus"`
	// First is where the node's GPUs begin in a frame.
	First int `json:"first"`
}

// gpuMap is the map as the template shows it.
type gpuMap struct {
	About  string
	Runs   []string
	Groups []mapGroup
	Last   int    // of the frames of the first run
	Label  string // of that frame
	Values grid   // the last frame of each run, by model
}

type mapGroup struct {
	Model, Size string
}

// prepare lays the map out: models by name, their nodes by size and name.
func (m *Map) prepare() (gpuMap, liveMap, bool) {
	if m == nil || len(m.Runs) == 0 || !slices.ContainsFunc(m.Runs, func(r MapRun) bool { return len(r.Frames) > 0 }) {
		return gpuMap{}, liveMap{}, false
	}
	live := liveMap{Runs: m.thinned()}
	by := map[string]int{}
	first := 0
	for _, n := range m.Nodes {
		if n.GPUs > 0 {
			i, ok := by[n.Model]
			if !ok {
				i = len(live.Groups)
				by[n.Model] = i
				live.Groups = append(live.Groups, liveGroup{Model: n.Model})
			}
			live.Groups[i].Nodes = append(live.Groups[i].Nodes, liveNode{n.Name, n.GPUs, first})
		}
		first += n.GPUs
	}
	slices.SortStableFunc(live.Groups, func(a, b liveGroup) int { return cmp.Compare(a.Model, b.Model) })
	view := gpuMap{About: m.About, Values: grid{
		Caption: "The GPU map at the end", Names: true, Head: []string{"run", "model", "GPUs", "used up", "in part", "idle", "used, %"},
	}}
	for _, g := range live.Groups {
		slices.SortStableFunc(g.Nodes, func(a, b liveNode) int {
			return cmp.Or(cmp.Compare(b.GPUs, a.GPUs), cmp.Compare(a.Name, b.Name))
		})
		gpus := 0
		for _, n := range g.Nodes {
			gpus += n.GPUs
		}
		view.Groups = append(view.Groups, mapGroup{g.Model, plural(gpus, "GPU", "GPUs") + " in " + plural(len(g.Nodes), "node", "nodes")})
	}
	for _, r := range live.Runs {
		view.Runs = append(view.Runs, r.Run)
		for _, g := range live.Groups {
			view.Values.Rows = append(view.Values.Rows, atTheEnd(r, g))
		}
	}
	view.Last = len(live.Runs[0].Frames) - 1
	if view.Last >= 0 {
		view.Label = live.Runs[0].Frames[view.Last].Label
	}
	return view, live, true
}

func atTheEnd(r MapRun, g liveGroup) []string {
	row := []string{r.Run, g.Model}
	if len(r.Frames) == 0 {
		return append(row, "–", "–", "–", "–", "–")
	}
	used := r.Frames[len(r.Frames)-1].Used
	var gpus, full, idle, sum int
	for _, n := range g.Nodes {
		for _, u := range used[n.First : n.First+n.GPUs] {
			gpus++
			sum += int(u)
			switch u {
			case 0:
				idle++
			case 100:
				full++
			}
		}
	}
	for _, v := range []int{gpus, full, gpus - full - idle, idle} {
		row = append(row, number(float64(v), 0))
	}
	return append(row, number(float64(sum)/float64(gpus), 1))
}

// thinned is the runs with so many frames that they have room; the first and the last frame always stay.
func (m *Map) thinned() []MapRun {
	total := 0
	for _, r := range m.Runs {
		for _, f := range r.Frames {
			total += len(f.Used)
		}
	}
	if total <= maxMapBytes {
		return m.Runs
	}
	var out []MapRun
	for _, r := range m.Runs {
		n := len(r.Frames)
		if n <= 2 {
			out = append(out, r)
			continue
		}
		keep := max(2, n*maxMapBytes/total)
		thin := MapRun{Run: r.Run}
		for i := range keep {
			thin.Frames = append(thin.Frames, r.Frames[i*(n-1)/(keep-1)])
		}
		out = append(out, thin)
	}
	return out
}
