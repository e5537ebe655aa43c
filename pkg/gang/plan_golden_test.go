package gang_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/gpu"
)

// The choices that a person would want to check, in files of these commands:
//
//	cluster levels=(clique,rack) gpus=8      the nodes, in lines of "rack clique: free free free", a node for each number of free
//	                                         GPUs; others hold the rest. A domain of "-" is none. Nodes are called a, b, c, and so on
//	gang min=N [required=L] [preferred=L]    the gang, in lines of "4 worker gpus=8 cores=2"
//	plan                                     the plan, and which places it has
//	start                                    what was planned runs
//	lose MEMBER...                           members end and are to be placed again
//	hold NODE..., free NODE...               others take all that is free on the nodes, or give back all they have
func TestPlanGolden(t *testing.T) {
	datadriven.Walk(t, "testdata/plan", func(t *testing.T, path string) {
		s := &scenario{p: &gang.Problem{Gang: gang.Key{Namespace: "ml", Name: "train"}, Resources: []string{"cores"}, Strategy: fit.BestFit{}}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string { return s.run(t, d) })
	})
}

type scenario struct {
	p      *gang.Problem
	result *gang.Result
}

func (s *scenario) run(t *testing.T, d *datadriven.TestData) string {
	switch d.Cmd {
	case "cluster":
		gpus := 8
		d.MaybeScanArgs(t, "gpus", &gpus)
		s.p.Levels = s.p.Levels[:0]
		for _, arg := range d.CmdArgs {
			if arg.Key == "levels" {
				s.p.Levels = append(s.p.Levels, arg.Vals...)
			}
		}
		s.p.Nodes = nil
		for line := range strings.Lines(d.Input) {
			s.addNodes(t, d, line, gpus)
		}
	case "gang":
		s.p.Members, s.p.Shapes, s.p.Topology, s.p.Min = nil, nil, gang.Topology{}, 0
		d.MaybeScanArgs(t, "min", &s.p.Min)
		d.MaybeScanArgs(t, "required", &s.p.Required)
		d.MaybeScanArgs(t, "preferred", &s.p.Preferred)
		for line := range strings.Lines(d.Input) {
			s.addMembers(t, d, line)
		}
		for i := range s.p.Nodes {
			s.p.Nodes[i].Limit = slices.Repeat([]int{gang.NoLimit}, len(s.p.Shapes))
		}
	case "plan":
		return s.plan(t)
	case "start":
		for _, at := range s.result.Placements {
			m, n := &s.p.Members[at.Member], &s.p.Nodes[at.Node]
			m.Node = n.Name
			n.GPUs = n.GPUs.With(cluster.NewPod(m.UID, m.Name, at.Assignment))
			n.Free = []int64{n.Free[0] - s.p.Shapes[m.Shape].Ask[0]}
		}
	case "lose":
		for _, arg := range d.CmdArgs {
			m := &s.p.Members[slices.IndexFunc(s.p.Members, func(m gang.Member) bool { return m.Name == arg.Key })]
			n := s.node(m.Node)
			n.GPUs = n.GPUs.Without(m.UID)
			n.Free = []int64{n.Free[0] + s.p.Shapes[m.Shape].Ask[0]}
			m.Node = ""
		}
	case "hold", "free":
		for _, arg := range d.CmdArgs {
			n := s.node(arg.Key)
			n.GPUs = n.GPUs.Without("other-" + n.Name)
			if d.Cmd == "hold" {
				var devices []gpu.Device
				for _, g := range n.GPUs.GPUs {
					if g.Idle {
						devices = append(devices, g.Device)
					}
				}
				n.GPUs = n.GPUs.With(cluster.NewPod("other-"+n.Name, "ml/other", holding(devices)))
			}
		}
	default:
		d.Fatalf(t, "unknown command")
	}
	return ""
}

func (s *scenario) node(name string) *gang.Node {
	return &s.p.Nodes[slices.IndexFunc(s.p.Nodes, func(n gang.Node) bool { return n.Name == name })]
}

func (s *scenario) addNodes(t *testing.T, d *datadriven.TestData, line string, gpus int) {
	domains, free, ok := strings.Cut(line, ":")
	if !ok {
		d.Fatalf(t, "%q: want domains, a colon and free GPUs", line)
	}
	values := strings.Fields(strings.ReplaceAll(domains, "-", " - "))
	slices.Reverse(values)
	for f := range strings.FieldsSeq(free) {
		name := string(rune('a' + len(s.p.Nodes)))
		devices := make([]gpu.Device, gpus)
		for g := range devices {
			devices[g] = gpu.Device{ID: gpu.ID(fmt.Sprintf("%s%d", name, g)), Index: g, Product: "B200", MemoryMiB: 183359}
		}
		n := cluster.NewNode(name, cluster.NewInventory(cluster.SourceSlices, devices), nil)
		idle, err := strconv.Atoi(f)
		if err != nil {
			d.Fatalf(t, "%q: %v", line, err)
		}
		if idle < gpus {
			n = n.With(cluster.NewPod("other-"+name, "ml/other", holding(devices[idle:])))
		}
		node := gang.Node{Name: name, GPUs: n, MilliCPU: 64_000, Free: []int64{64}}
		for _, v := range values {
			node.Domains = append(node.Domains, strings.TrimPrefix(v, "-"))
		}
		s.p.Nodes = append(s.p.Nodes, node)
	}
}

func (s *scenario) addMembers(t *testing.T, d *datadriven.TestData, line string) {
	fields := strings.Fields(line)
	amount := map[string]int{"gpus": 0, "cores": 1}
	for _, f := range fields[2:] {
		key, value, _ := strings.Cut(f, "=")
		n, err := strconv.Atoi(value)
		if _, known := amount[key]; !known || err != nil {
			d.Fatalf(t, "%q: want gpus and cores", line)
		}
		amount[key] = n
	}
	shape := gang.Shape{Name: fields[1] + "-0", MilliCPU: int64(amount["cores"]) * 1000, Ask: []int64{int64(amount["cores"])}}
	if amount["gpus"] > 0 {
		shape.Request = wholeGPUs(amount["gpus"])
	}
	s.p.Shapes = append(s.p.Shapes, shape)
	count, err := strconv.Atoi(fields[0])
	if err != nil {
		d.Fatalf(t, "%q: %v", line, err)
	}
	for i := range count {
		name := fmt.Sprintf("%s-%d", fields[1], i)
		s.p.Members = append(s.p.Members, gang.Member{UID: "uid-" + name, Name: name, Shape: len(s.p.Shapes) - 1})
	}
}

func (s *scenario) plan(t *testing.T) string {
	res, rejection := gang.Plan(s.p)
	s.result = res
	if !rejection.OK() {
		return rejection.Message()
	}
	if err := gang.Verify(s.p, res); err != nil {
		t.Error(err)
	}
	var out strings.Builder
	for i, n := range s.p.Nodes {
		var here []string
		for _, m := range s.p.Members {
			if m.Node == n.Name {
				here = append(here, m.Name+" (runs)")
			}
		}
		for _, at := range res.Placements {
			if at.Node != i {
				continue
			}
			var gpus []string
			for _, u := range at.Assignment.Uses() {
				gpus = append(gpus, string(u.GPU))
			}
			text := s.p.Members[at.Member].Name
			if len(gpus) > 0 {
				text += " " + gpus[0]
			}
			if len(gpus) > 1 {
				text += "-" + gpus[len(gpus)-1]
			}
			here = append(here, text)
		}
		if here != nil {
			fmt.Fprintf(&out, "%s %v: %s\n", n.Name, n.Domains, strings.Join(here, ", "))
		}
	}
	for _, m := range res.Surplus {
		fmt.Fprintf(&out, "no place: %s\n", s.p.Members[m].Name)
	}
	for l, count := range res.Domains {
		fmt.Fprintf(&out, "%s: %d. ", s.p.Levels[l], count)
	}
	if res.Level != "" {
		fmt.Fprintf(&out, "All in %s %s.", res.Level, res.Domain)
	}
	return strings.TrimSpace(out.String())
}
