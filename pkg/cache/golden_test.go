package cache

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
)

// TestGolden runs the scenarios of testdata. Regenerate with -rewrite and read the difference.
//
//	node NAME gpus=N [mig=N]                    the node reports so many plain GPUs, and so many in MIG mode after them
//	assume POD on=NODE gpus=ASSIGNMENT          (in quotes, with ' for =)
//	plan POD on=NODE gpus=ASSIGNMENT            for a pod whose turn comes later
//	cancel POD                                  ends the plan
//	confirm POD on=NODE gpus=ASSIGNMENT         the API server shows it
//	confirm POD on=NODE unplaced=N              the API server shows it, and nobody knows which N GPUs it holds
//	suspect POD until=DURATION                  after the start of the scenario
//	forget POD
//	release POD
//	expire at=DURATION
//	restart                                     a new cache, from what was reported and what the API server showed last
//
// After each command the state is printed: the nodes with what is left of each GPU, and the pods with their state.
func TestGolden(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := scenario{cache: New(), reported: map[string]cluster.Inventory{}, shown: map[string]shownPod{}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			return s.run(t, d) + s.state()
		})
	})
}

type scenario struct {
	cache    *Cache
	reported map[string]cluster.Inventory
	// shown are the bound pods as the API server shows them.
	shown map[string]shownPod
}

type shownPod struct {
	node string
	pod  cluster.Pod
}

func (s *scenario) run(t *testing.T, d *datadriven.TestData) string {
	name := ""
	if len(d.CmdArgs) > 0 {
		name = d.CmdArgs[0].Key
	}
	text := func(key string) (v string) { d.MaybeScanArgs(t, key, &v); return v }
	number := func(key string) (v int) { d.MaybeScanArgs(t, key, &v); return v }
	at := func(key string) time.Time {
		after, err := time.ParseDuration(text(key))
		if err != nil {
			d.Fatalf(t, "%s: %v", key, err)
		}
		return start.Add(after)
	}
	pod := func() cluster.Pod {
		if n := number("unplaced"); n > 0 {
			return cluster.NewUnplacedPod(name, "ns/"+name, gpu.Request{Containers: []gpu.ContainerRequest{
				{Name: "main", Asks: []gpu.Ask{{Kind: gpu.Whole, Count: n}}},
			}})
		}
		a, err := gpu.ParseAssignment("main=" + text("gpus"))
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		return cluster.NewPod(name, "ns/"+name, a)
	}
	switch d.Cmd {
	case "node":
		var devices []gpu.Device
		for i := range number("gpus") {
			devices = append(devices, plain(i))
		}
		for range number("mig") {
			devices = append(devices, partitioned(len(devices)))
		}
		s.reported[name] = cluster.NewInventory(cluster.SourceSlices, devices)
		s.cache.SetInventory(name, s.reported[name])
	case "assume":
		if err := s.cache.Assume(text("on"), pod()); err != nil {
			return fmt.Sprintf("refused: %v\n", err)
		}
	case "plan":
		if err := s.cache.Plan(text("on"), pod()); err != nil {
			return fmt.Sprintf("refused: %v\n", err)
		}
	case "cancel":
		s.cache.Cancel(name)
	case "confirm":
		s.shown[name] = shownPod{text("on"), pod()}
		s.cache.Confirm(text("on"), pod())
	case "suspect":
		s.cache.Suspect(name, at("until"))
	case "forget":
		delete(s.shown, name)
		s.cache.Forget(name)
	case "release":
		s.cache.Release(name)
	case "expire":
		return fmt.Sprintf("expired: %v\n", s.cache.Expire(at("at")))
	case "restart":
		s.cache = New()
		// In any order: here the pods first.
		for _, uid := range slices.Sorted(maps.Keys(s.shown)) {
			s.cache.Confirm(s.shown[uid].node, s.shown[uid].pod)
		}
		for _, name := range slices.Sorted(maps.Keys(s.reported)) {
			s.cache.SetInventory(name, s.reported[name])
		}
	default:
		d.Fatalf(t, "unknown command %q", d.Cmd)
	}
	return ""
}

// state prints the snapshot that the next cycle would see.
func (s *scenario) state() string {
	var b strings.Builder
	snapshot := cluster.NewSnapshot()
	s.cache.Snapshot(snapshot)
	for _, n := range snapshot.Sorted() {
		var gpus []string
		for i := range n.GPUs {
			g := &n.GPUs[i]
			left := fmt.Sprintf("%s left", gpu.FormatPercent(g.FreeMilliGPU))
			switch {
			case g.MIG:
				left = fmt.Sprintf("%d of %d slices used", n.AssignedMilliGPU(i)*int64(g.Slices)/gpu.WholeMilliGPU, g.Slices)
			case g.FreeMilliGPU == 0:
				left = "taken"
			case g.Idle:
				left = "idle"
			}
			gpus = append(gpus, fmt.Sprintf("%s %s", g.ID, left))
		}
		if n.Withheld.GPUs > 0 {
			gpus = append(gpus, fmt.Sprintf("%d withheld", n.Withheld.GPUs))
		}
		if gpus == nil {
			gpus = []string{"reports no GPU"}
		}
		fmt.Fprintf(&b, "node %s: %s\n", n.Name, strings.Join(gpus, ", "))
		for _, p := range n.Pods {
			state := "assumed"
			switch h := s.cache.pods[p.UID]; {
			case h.confirmed:
				state = "confirmed"
			case h.planned:
				state = "planned"
			}
			if deadline, ok := s.cache.suspected[p.UID]; ok {
				state = strings.TrimPrefix(state+", suspected", "assumed, ") + fmt.Sprintf(" until %v", deadline.Sub(start))
			}
			holds := strings.TrimPrefix(p.Assignment.String(), "main=")
			if !p.Unplaced.Empty() {
				holds = fmt.Sprintf("nobody knows which %d GPUs", p.Unplaced.Containers[0].Asks[0].Count)
			}
			fmt.Fprintf(&b, "  %s holds %s: %s\n", p.UID, holds, state)
		}
	}
	if snapshot.Len() == 0 {
		return b.String() + "nothing\n"
	}
	return b.String()
}
