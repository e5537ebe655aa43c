package nodeagent

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	resourceapi "k8s.io/api/resource/v1"
	"sigs.k8s.io/yaml"

	"weft.sh/weft/pkg/deviceplugin"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/inventory"
	"weft.sh/weft/pkg/mig"
	"weft.sh/weft/pkg/nvml"
	"weft.sh/weft/pkg/slot"
)

// Probe is what an agent would do on this node, and from what: `weft-node probe -o json`.
type Probe struct {
	Node          string `json:"node"`
	DriverVersion string `json:"driverVersion"`
	CUDAVersion   string `json:"cudaVersion"`
	NVMLVersion   string `json:"nvmlVersion"`
	// CgroupV2 says that the node's control groups are of version 2, without which the driver bounds no memory.
	CgroupV2 bool       `json:"cgroupV2"`
	GPUs     []ProbeGPU `json:"gpus"`
	// Resources is what would be offered to the kubelet, by name: how many, and how many of them healthy.
	Resources []ProbeResource `json:"resources"`
	// Labels would be set on the Node; none in mode fractions.
	Labels map[string]string `json:"labels"`
	// ResourceSlices would be published.
	ResourceSlices []*resourceapi.ResourceSlice `json:"resourceSlices"`
	// Problems are what NVML said and is not believed, and what is wrong with the flags.
	Problems []string `json:"problems"`
}

// ProbeGPU is one GPU.
type ProbeGPU struct {
	Index             int    `json:"index"`
	UUID              string `json:"uuid"`
	Product           string `json:"product"`
	Minor             int    `json:"minor"`
	MemoryMiB         int64  `json:"memoryMiB"`
	TotalMemoryMiB    int64  `json:"totalMemoryMiB"`
	PCIBusID          string `json:"pciBusID"`
	NUMANode          *int   `json:"numaNode"`
	Architecture      string `json:"architecture"`
	ComputeCapability string `json:"computeCapability"`
	// NVLinkSwitch is the number of links to NVSwitches, NVLinkPeers of those to other GPUs by their index.
	NVLinkSwitch int            `json:"nvlinkSwitch"`
	NVLinkPeers  map[string]int `json:"nvlinkPeers"`
	Clique       string         `json:"clique"`
	// Given is how it would be given out: whole, shared or mig, or several of them.
	Given []string `json:"given"`
	// Isolation is what keeps shares of it apart; empty when it is not shared.
	Isolation gpu.Isolation `json:"isolation"`
	// MemoryLimits says that the driver can bound its memory by control group.
	MemoryLimits    bool   `json:"memoryLimits"`
	UnhealthyReason string `json:"unhealthyReason"`
	MIGCapable      bool   `json:"migCapable"`
	MIGMode         bool   `json:"migMode"`
	// Instances exist now; Profiles are what the GPU could be partitioned into.
	Instances []ProbeInstance `json:"instances"`
	Profiles  []ProbeProfile  `json:"profiles"`
	// MIGTable is the built-in table of the product's MIG profiles, empty when there is none. Disagreements are where NVML and it
	// differ.
	MIGTable      string   `json:"migTable"`
	Disagreements []string `json:"disagreements"`
}

// ProbeInstance is a MIG instance.
type ProbeInstance struct {
	UUID      string `json:"uuid"`
	Profile   string `json:"profile"`
	Start     int    `json:"start"`
	Size      int    `json:"size"`
	MemoryMiB int64  `json:"memoryMiB"`
}

// ProbeProfile is a MIG profile as NVML describes it.
type ProbeProfile struct {
	Name          string `json:"name"`
	ID            int    `json:"id"`
	ComputeSlices int    `json:"computeSlices"`
	SMs           int    `json:"sms"`
	MemoryMiB     int64  `json:"memoryMiB"`
	MaxCount      int    `json:"maxCount"`
	// Placements are start:size in memory slices.
	Placements []string `json:"placements"`
}

// ProbeResource is one resource of the kubelet.
type ProbeResource struct {
	Name    string `json:"name"`
	Count   int    `json:"count"`
	Healthy int    `json:"healthy"`
}

// probe is what an agent with that policy makes of the host.
func probe(node string, host nvml.Host, p policy) Probe {
	s := derive(cardsOf(host), host, nil, nil, p)
	out := Probe{
		Node: node, DriverVersion: host.DriverVersion, CUDAVersion: host.CUDAVersion, NVMLVersion: host.NVMLVersion, CgroupV2: p.cgroup2,
		GPUs: []ProbeGPU{}, Resources: []ProbeResource{}, Labels: map[string]string{}, Problems: append([]string{}, s.Problems...),
		ResourceSlices: inventory.Slices(node, s.Devices, 1),
	}
	if p.mode == ModeAll {
		out.Labels = labelsOf(s)
	}
	for _, g := range host.GPUs {
		out.GPUs = append(out.GPUs, probeGPU(g, s))
	}
	for r, states := range offers(s.Devices, slot.Book{}, p.mode == ModeFractions) {
		healthy := 0
		for _, ok := range states {
			if ok {
				healthy++
			}
		}
		out.Resources = append(out.Resources, ProbeResource{deviceplugin.ResourceName(r), len(states), healthy})
	}
	slices.SortFunc(out.Resources, func(a, b ProbeResource) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func probeGPU(g nvml.GPU, s *State) ProbeGPU {
	d, published := deviceOf(s.Devices, g.ID)
	out := ProbeGPU{
		Index: g.Index, UUID: string(g.ID), Product: g.Product, Minor: g.Minor, MemoryMiB: g.MemoryMiB, TotalMemoryMiB: g.TotalMemoryMiB,
		NVLinkPeers: map[string]int{}, Given: []string{}, Isolation: d.Isolation, MemoryLimits: g.MemoryLimits,
		UnhealthyReason: d.UnhealthyReason, MIGCapable: g.MIGCapable, MIGMode: g.MIG,
		Instances: []ProbeInstance{}, Profiles: []ProbeProfile{}, Disagreements: append([]string{}, nvml.Compare(g)...),
	}
	if t, ok := mig.TableByProduct(g.Product); ok {
		out.MIGTable = t.Name
	}
	if h := g.Hardware; h != nil {
		out.PCIBusID, out.Architecture, out.ComputeCapability, out.Clique = h.PCIBusID, h.Architecture, h.ComputeCapability, h.Clique
		out.NVLinkSwitch = h.Links.Switch
		for _, p := range h.Links.Peers {
			out.NVLinkPeers[strconv.Itoa(p.Index)] = p.Links
		}
		if h.NUMANode >= 0 {
			out.NUMANode = &h.NUMANode
		}
	}
	switch {
	case !published:
	case d.MIG:
		out.Given = append(out.Given, "mig")
	default:
		if !d.SharedOnly {
			out.Given = append(out.Given, "whole")
		}
		if !d.WholeOnly {
			out.Given = append(out.Given, "shared")
		}
	}
	for _, m := range g.MIGDevices {
		out.Instances = append(out.Instances, ProbeInstance{m.UUID, m.Profile, m.Start, m.Size, m.MemoryMiB})
	}
	for _, p := range g.Profiles {
		places := []string{}
		for _, at := range p.Placements {
			places = append(places, fmt.Sprintf("%d:%d", at.Start, at.Size))
		}
		out.Profiles = append(out.Profiles, ProbeProfile{p.Name, p.ProfileID, p.ComputeSlices, p.SMs, p.MemoryMiB, p.MaxCount, places})
	}
	return out
}

// write prints the probe: as text for people, or as json or yaml.
func (p Probe) write(w io.Writer, format string) error {
	if format == "" {
		_, err := io.WriteString(w, p.text())
		return err
	}
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(p); err != nil {
		return err
	}
	out := buf.Bytes()
	if format == "yaml" {
		var err error
		if out, err = yaml.JSONToYAML(out); err != nil {
			return err
		}
	}
	_, err := w.Write(out)
	return err
}

// text is the probe for people. GPUs that have the same profiles share a table of them.
func (p Probe) text() string {
	var b strings.Builder
	cgroups := "control groups v2"
	if !p.CgroupV2 {
		cgroups = "control groups v1, so the driver bounds no memory"
	}
	fmt.Fprintf(&b, "Driver %s, CUDA %s, NVML %s; %s\n", or(p.DriverVersion), or(p.CUDAVersion), or(p.NVMLVersion), cgroups)

	fmt.Fprintf(&b, "\nGPUs: %d\n", len(p.GPUs))
	table(&b, p.GPUs, "INDEX\tPRODUCT\tMEMORY\tCAPABILITY\tPCI\tNUMA\tNVLINK\tGIVEN\tISOLATION\tHEALTH\tUUID", func(g ProbeGPU) []any {
		numa, health := "-", "ok"
		if g.NUMANode != nil {
			numa = strconv.Itoa(*g.NUMANode)
		}
		if g.UnhealthyReason != "" {
			health = "UNHEALTHY"
		}
		return []any{
			g.Index, g.Product, fmt.Sprintf("%d MiB", g.MemoryMiB), or(g.ComputeCapability), or(g.PCIBusID), numa, nvlink(g),
			or(strings.Join(g.Given, ", ")), or(string(g.Isolation)), health, g.UUID,
		}
	})
	for _, g := range p.GPUs {
		if g.UnhealthyReason != "" {
			fmt.Fprintf(&b, "  GPU %d is unhealthy: %s\n", g.Index, g.UnhealthyReason)
		}
	}
	p.textMIG(&b)

	fmt.Fprintf(&b, "\nWould offer the kubelet of node %s:\n", p.Node)
	table(&b, p.Resources, "RESOURCE\tCOUNT\tHEALTHY", func(r ProbeResource) []any { return []any{r.Name, r.Count, r.Healthy} })
	devices := 0
	for _, s := range p.ResourceSlices {
		devices += len(s.Spec.Devices)
	}
	fmt.Fprintf(&b, "\nWould publish %s in %s of driver %s (see -o yaml)\n",
		plural(devices, "device"), plural(len(p.ResourceSlices), "ResourceSlice"), inventory.Driver)
	b.WriteString("\nWould set labels on the Node:\n")
	for _, name := range slices.Sorted(maps.Keys(p.Labels)) {
		fmt.Fprintf(&b, "  %s=%s\n", name, p.Labels[name])
	}
	if len(p.Labels) == 0 {
		b.WriteString("  none\n")
	}

	b.WriteString("\nWhere NVML disagrees with the built-in tables of MIG profiles:\n")
	none := true
	for _, g := range p.GPUs {
		if len(g.Profiles) > 0 && g.MIGTable == "" {
			none = false
			fmt.Fprintf(&b, "  GPU %d: there is no table for %s\n", g.Index, g.Product)
		}
		for _, d := range g.Disagreements {
			none = false
			fmt.Fprintf(&b, "  GPU %d: %s\n", g.Index, d)
		}
	}
	if none {
		b.WriteString("  nowhere\n")
	}
	b.WriteString("\nProblems:\n")
	for _, problem := range p.Problems {
		fmt.Fprintf(&b, "  %s\n", problem)
	}
	if len(p.Problems) == 0 {
		b.WriteString("  none\n")
	}
	return b.String()
}

func (p Probe) textMIG(b *strings.Builder) {
	type row struct {
		ProbeInstance
		gpu int
	}
	var instances []row
	for _, g := range p.GPUs {
		for _, i := range g.Instances {
			instances = append(instances, row{i, g.Index})
		}
	}
	if len(instances) > 0 {
		b.WriteString("\nMIG instances:\n")
		table(b, instances, "GPU\tPROFILE\tSLICES\tMEMORY\tUUID", func(i row) []any {
			return []any{i.gpu, i.Profile, fmt.Sprintf("%d to %d", i.Start, i.Start+i.Size-1), fmt.Sprintf("%d MiB", i.MemoryMiB), i.UUID}
		})
	}
	same := func(a, b ProbeGPU) bool {
		return slices.EqualFunc(a.Profiles, b.Profiles, func(x, y ProbeProfile) bool {
			return x.Name == y.Name && x.ID == y.ID && x.ComputeSlices == y.ComputeSlices && x.SMs == y.SMs && x.MemoryMiB == y.MemoryMiB &&
				x.MaxCount == y.MaxCount && slices.Equal(x.Placements, y.Placements)
		})
	}
	var shown []ProbeGPU
	for _, g := range p.GPUs {
		if len(g.Profiles) == 0 || slices.ContainsFunc(shown, func(s ProbeGPU) bool { return same(s, g) }) {
			continue
		}
		shown = append(shown, g)
		var of []string
		for _, o := range p.GPUs {
			if same(o, g) {
				of = append(of, strconv.Itoa(o.Index))
			}
		}
		fmt.Fprintf(b, "\nMIG profiles of GPU %s, as NVML tells them:\n", strings.Join(of, ", "))
		table(b, g.Profiles, "PROFILE\tID\tCOMPUTE SLICES\tSMS\tMEMORY\tAT MOST\tSTART:SIZE", func(p ProbeProfile) []any {
			return []any{p.Name, p.ID, p.ComputeSlices, p.SMs, fmt.Sprintf("%d MiB", p.MemoryMiB), p.MaxCount, or(strings.Join(p.Placements, " "))}
		})
	}
}

// table prints rows in columns, indented.
func table[T any](b *strings.Builder, rows []T, header string, cells func(T) []any) {
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "  %s\n", header)
	for _, r := range rows {
		texts := []string{}
		for _, c := range cells(r) {
			texts = append(texts, fmt.Sprint(c))
		}
		fmt.Fprintf(w, "  %s\n", strings.Join(texts, "\t"))
	}
	_ = w.Flush() // to memory
}

func nvlink(g ProbeGPU) string {
	var parts []string
	if g.NVLinkSwitch > 0 {
		parts = append(parts, fmt.Sprintf("%d to switches", g.NVLinkSwitch))
	}
	total := 0
	for _, n := range g.NVLinkPeers {
		total += n
	}
	if total > 0 {
		parts = append(parts, fmt.Sprintf("%d to %s", total, plural(len(g.NVLinkPeers), "GPU")))
	}
	return or(strings.Join(parts, ", "))
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// or is the text, or a dash in its place.
func or(text string) string { return cmp.Or(text, "-") }
