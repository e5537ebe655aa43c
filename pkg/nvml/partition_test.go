package nvml

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/nvml/nvmlfake"
)

func TestCreateAndDestroyInstances(t *testing.T) {
	l := New(fake(t, partitioned(nvmlfake.MIG{})))
	id := discover(t, l).GPUs[0].ID
	three, one := gpu.Instance{Profile: "3g.40gb", Start: 4, Size: 4}, gpu.Instance{Profile: "1g.10gb", Start: 2, Size: 1}
	m, err := l.CreateInstance(id, three)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.CreateInstance(id, one); err != nil {
		t.Fatal(err)
	}
	h := discover(t, l)
	problems(t, h)
	if got := h.GPUs[0].Instances; !slices.Equal(got, []gpu.Instance{one, three}) {
		t.Errorf("instances %v", got)
	}
	if h.GPUs[0].MIGDevices[1] != m {
		t.Errorf("made %+v, found %+v", m, h.GPUs[0].MIGDevices[1])
	}
	for i, want := range map[gpu.Instance]error{
		three:                                    ErrNoRoom,
		{Profile: "7g.80gb", Start: 0, Size: 8}:  ErrNoRoom,
		{Profile: "3g.40gb", Start: 2, Size: 4}:  ErrNoInstance,
		{Profile: "3g.40gb", Start: 0, Size: 3}:  ErrNoInstance,
		{Profile: "9g.90gb", Start: 0, Size: 8}:  ErrNoInstance,
		{Profile: "1g.10gb", Start: -1, Size: 1}: ErrNoInstance,
	} {
		if _, err := l.CreateInstance(id, i); !errors.Is(err, want) {
			t.Errorf("create %s: %v, want %v", i, err, want)
		}
	}
	if err := l.DestroyInstance(id, three); err != nil {
		t.Error(err)
	}
	if err := l.DestroyInstance(id, three); !errors.Is(err, ErrNoInstance) {
		t.Errorf("destroy it again: %v", err)
	}
	again, err := l.CreateInstance(id, three)
	if err != nil || again.UUID == m.UUID {
		t.Errorf("made again: %+v, %v; a MIG device that is made again has another UUID than %s", again, err, m.UUID)
	}
}

func TestPartitionErrors(t *testing.T) {
	one := gpu.Instance{Profile: "1g.10gb", Start: 2, Size: 1}
	busy := partitioned(nvmlfake.MIG{Instances: []string{"1g.10gb@2"}})
	busy.GPUs[0].Processes = []nvmlfake.Process{{PID: 1, Instance: "1g.10gb@2"}}
	answering := func(method string, a nvmlfake.Answer) nvmlfake.Node {
		return changed(partitioned(nvmlfake.MIG{}), 0, func(g *nvmlfake.GPU) { g.Answers = map[string]nvmlfake.Answer{method: a} })
	}
	for name, c := range map[string]struct {
		node            nvmlfake.Node
		create, destroy error
		// part of both messages
		part string
	}{
		"not in MIG mode":       {nvmlfake.DGXH100(), ErrNoInstance, ErrNoInstance, "not in MIG mode"},
		"a process uses it":     {busy, ErrNoRoom, ErrInUse, "1g.10gb@2:1 on GPU"},
		"a GPU without MIG":     {nvmlfake.L4s(), ErrNoInstance, ErrNoInstance, "not in MIG mode"},
		"no permission at all":  {answering("CreateGpuInstanceWithPlacement", "ERROR_NO_PERMISSION"), nil, ErrNoInstance, ""},
		"nothing can be listed": {answering("GetGpuInstances", "ERROR_NO_PERMISSION"), errNone, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			l := New(fake(t, c.node))
			id := discover(t, l).GPUs[0].ID
			// Destroying comes first: nothing was made yet.
			for what, err := range map[string]error{"destroy": l.DestroyInstance(id, one)} {
				if err == nil || c.destroy != nil && !errors.Is(err, c.destroy) || !strings.Contains(err.Error(), c.part) {
					t.Errorf("%s: %v, want %v", what, err, c.destroy)
				}
			}
			_, err := l.CreateInstance(id, one)
			if c.create == errNone {
				if err != nil {
					t.Errorf("create: %v", err)
				}
			} else if err == nil || c.create != nil && !errors.Is(err, c.create) || !strings.Contains(err.Error(), c.part) {
				t.Errorf("create: %v, want %v", err, c.create)
			}
		})
	}
	l := New(fake(t, nvmlfake.DGXH100()))
	discover(t, l)
	if _, err := l.CreateInstance("GPU-1", one); !errors.Is(err, ErrNoGPU) {
		t.Errorf("create on a GPU that there is not: %v", err)
	}
	if err := l.DestroyInstance("GPU-1", one); !errors.Is(err, ErrNoGPU) {
		t.Errorf("destroy on a GPU that there is not: %v", err)
	}
}

// errNone stands in tables for no error where nil stands for any.
var errNone = errors.New("none")

func TestAnInstanceThatCannotBeCompletedIsRemoved(t *testing.T) {
	one := gpu.Instance{Profile: "1g.10gb", Start: 2, Size: 1}
	for name, answers := range map[string]map[string]nvmlfake.Answer{
		"no compute instance":               {"CreateComputeInstance": "ERROR_UNKNOWN"},
		"the MIG device does not appear":    {"MIG.GetUUID": "ERROR_UNKNOWN"},
		"the MIG devices cannot be counted": {"GetMaxMigDeviceCount": "ERROR_UNKNOWN"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := partitioned(nvmlfake.MIG{})
				n.GPUs[0].Answers = answers
				f := fake(t, n)
				l := New(f)
				id := discover(t, l).GPUs[0].ID
				began := time.Now()
				if m, err := l.CreateInstance(id, one); err == nil {
					t.Errorf("made %+v", m)
				}
				if took := time.Since(began); took > appearWithin+time.Second {
					t.Errorf("it took %v", took)
				}
				update(t, f, func(n *nvmlfake.Node) { n.GPUs[0].Answers = nil })
				problems(t, discover(t, l), "has no instance")
				if _, err := l.CreateInstance(id, one); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestIncompleteInstancesCanBeDestroyed(t *testing.T) {
	l := New(fake(t, partitioned(nvmlfake.MIG{Incomplete: []string{"1g.10gb@0"}, Partial: []string{"3g.40gb@4"}})))
	g := discover(t, l).GPUs[0]
	if len(g.Incomplete) != 2 || len(g.Instances) != 0 {
		t.Fatalf("%v and %v", g.Incomplete, g.Instances)
	}
	for _, i := range g.Incomplete {
		if err := l.DestroyInstance(g.ID, i); err != nil {
			t.Error(err)
		}
	}
	if g := discover(t, l).GPUs[0]; len(g.Incomplete) != 0 {
		t.Errorf("left: %v", g.Incomplete)
	}
}

// Whatever is made and destroyed, the library finds what a list says that keeps the rules.
func TestRandomPartitioning(t *testing.T) {
	for model := range nvmlfake.Models {
		l := New(fake(t, nvmlfake.Node{GPUs: []nvmlfake.GPU{{Model: model, MIG: nvmlfake.MIG{HiddenWhenOff: true}}}}))
		if g := discover(t, l).GPUs[0]; !g.MIGCapable {
			continue
		}
		t.Run(model, func(t *testing.T) {
			l := New(fake(t, nvmlfake.Node{GPUs: []nvmlfake.GPU{{Model: model, MIG: nvmlfake.MIG{Enabled: true}}}}))
			g := discover(t, l).GPUs[0]
			var all []gpu.Instance
			limit := map[string]int{}
			for _, p := range g.Profiles {
				limit[p.Name] = p.MaxCount
				for _, at := range p.Placements {
					all = append(all, gpu.Instance{Profile: p.Name, Start: at.Start, Size: at.Size})
				}
			}
			random := rand.New(rand.NewPCG(1, 2))
			var there []gpu.Instance
			for step := range 300 {
				i := all[random.IntN(len(all))]
				if k := slices.Index(there, i); k >= 0 {
					if err := l.DestroyInstance(g.ID, i); err != nil {
						t.Fatalf("step %d: %v", step, err)
					}
					there = slices.Delete(there, k, k+1)
					continue
				}
				same := 0
				fits := !slices.ContainsFunc(there, func(o gpu.Instance) bool {
					if o.Profile == i.Profile {
						same++
					}
					return o.Overlaps(i)
				}) && same < limit[i.Profile]
				_, err := l.CreateInstance(g.ID, i)
				if fits != (err == nil) || err != nil && !errors.Is(err, ErrNoRoom) {
					t.Fatalf("step %d: create %s beside %v: %v", step, i, there, err)
				}
				if fits {
					there = append(there, i)
				}
				slices.SortFunc(there, func(a, b gpu.Instance) int { return a.Start - b.Start })
				got := discover(t, l).GPUs[0].Instances
				if fmt.Sprint(got) != fmt.Sprint(there) {
					t.Fatalf("step %d: found %v, want %v", step, got, there)
				}
			}
		})
	}
}
