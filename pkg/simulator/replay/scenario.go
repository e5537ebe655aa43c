package replay

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
	"weft.sh/weft/pkg/quota"
)

// ErrScenario is wrapped by every error about what a scenario file says.
var ErrScenario = errors.New("malformed scenario")

// scenario is the file. Its parts are decoded one by one, so that errors say which.
type scenario struct {
	// Start is the virtual time at 0s; the first Monday of 2026 without it.
	Start    string            `json:"start"`
	Levels   []string          `json:"levels"`
	Nodes    []json.RawMessage `json:"nodes"`
	Queues   []json.RawMessage `json:"queues"`
	Jobs     []json.RawMessage `json:"jobs"`
	Failures []json.RawMessage `json:"failures"`
}

type scenarioNodes struct {
	Name      string            `json:"name"`
	Count     *int              `json:"count"`
	Model     string            `json:"model"`
	GPUs      int               `json:"gpus"`
	GPUMemory string            `json:"gpuMemory"`
	MIG       bool              `json:"mig"`
	CPU       string            `json:"cpu"`
	Memory    string            `json:"memory"`
	Levels    map[string]string `json:"levels"`
}

type scenarioQueue struct {
	Name       string         `json:"name"`
	Parent     string         `json:"parent"`
	Guaranteed float64        `json:"guaranteed"`
	Limit      *float64       `json:"limit"`
	Weight     *int64         `json:"weight"`
	Hours      *scenarioHours `json:"hours"`
}

type scenarioHours struct {
	Limit       float64 `json:"limit"`
	Period      string  `json:"period"`
	Enforcement string  `json:"enforcement"`
	Rollover    int64   `json:"rolloverPercent"`
}

type scenarioJob struct {
	Name      string   `json:"name"`
	Queue     string   `json:"queue"`
	Priority  int32    `json:"priority"`
	At        string   `json:"at"`
	Runtime   string   `json:"runtime"`
	Says      *string  `json:"says"`
	Members   *int     `json:"members"`
	MinMember *int     `json:"minMember"`
	GPUs      int      `json:"gpus"`
	Percent   int      `json:"percent"`
	MIG       string   `json:"mig"`
	Models    []string `json:"models"`
	CPU       string   `json:"cpu"`
	Memory    string   `json:"memory"`
	Topology  struct {
		Required  string `json:"required"`
		Preferred string `json:"preferred"`
	} `json:"topology"`
	Count *int   `json:"count"`
	Every string `json:"every"`
}

type scenarioFailure struct {
	Node string `json:"node"`
	At   string `json:"at"`
	For  string `json:"for"`
}

// Bounds of a scenario: it is for people, and kept in memory.
const (
	maxScenarioBytes = 4 << 20
	maxScenarioJobs  = 1_000_000
	maxMembers       = 10_000
)

// defaultStart is a Monday, so that weeks begin with the scenario.
const defaultStart = "2026-01-05T00:00:00Z"

// scenarioReader turns the file into an input. The first thing that is wrong is kept.
type scenarioReader struct {
	file string
	err  error
	in   Input
	jobs []Job
	// tables are those of the models of nodes with MIG.
	tables []mig.Table
}

// Scenario reads a scenario file; see docs/simulator.md. name stands in errors.
func Scenario(r io.Reader, name string) (*Input, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxScenarioBytes+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	s := &scenarioReader{file: name}
	if len(data) > maxScenarioBytes {
		return nil, s.fail("", "is longer than %d bytes", maxScenarioBytes)
	}
	converted, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, s.fail("", "%v", err)
	}
	var doc scenario
	if s.decode("", converted, &doc); s.err == nil {
		s.read(&doc)
	}
	if s.err != nil {
		return nil, s.err
	}
	slices.SortStableFunc(s.jobs, func(a, b Job) int { return cmp.Compare(a.At, b.At) })
	slices.SortStableFunc(s.in.Outages, func(a, b Outage) int { return cmp.Compare(a.At, b.At) })
	s.in.Jobs = func(yield func(Job, error) bool) {
		for _, j := range s.jobs {
			if !yield(j, nil) {
				return
			}
		}
	}
	return &s.in, nil
}

// fail keeps the first error: file: path problem.
func (s *scenarioReader) fail(path, format string, args ...any) error {
	if s.err == nil {
		if path != "" {
			path += " "
		}
		s.err = fmt.Errorf("%w: %s: %s%s", ErrScenario, s.file, path, fmt.Sprintf(format, args...))
	}
	return s.err
}

// decode reads a part of the file, in which no field may be unknown.
func (s *scenarioReader) decode(path string, data []byte, into any) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		var kind *json.UnmarshalTypeError
		if errors.As(err, &kind) {
			s.fail(strings.TrimPrefix(path+"."+kind.Field, "."), "is a %s: want a %s", kind.Value, kind.Type)
			return
		}
		s.fail(path, "%s", strings.TrimPrefix(err.Error(), "json: "))
	}
}

// parts decodes the elements of a list.
func parts[T any](s *scenarioReader, name string, list []json.RawMessage, read func(path string, v *T)) {
	for i, raw := range list {
		path := fmt.Sprintf("%s[%d]", name, i)
		var v T
		if s.decode(path, raw, &v); s.err == nil {
			read(path, &v)
		}
		if s.err != nil {
			return
		}
	}
}

func (s *scenarioReader) read(doc *scenario) {
	s.in.Name = strings.TrimSuffix(strings.TrimSuffix(s.file[strings.LastIndexByte(s.file, '/')+1:], ".yaml"), ".yml")
	start, err := time.Parse(time.RFC3339, cmp.Or(doc.Start, defaultStart))
	if err != nil {
		s.fail("start", "is %q: want a time such as %s", doc.Start, defaultStart)
		return
	}
	s.in.Start, s.in.From, s.in.Levels = start.Unix(), start.Unix(), doc.Levels
	for i, level := range doc.Levels {
		if level == "" || slices.Contains(doc.Levels[:i], level) {
			s.fail(fmt.Sprintf("levels[%d]", i), "is %q: want each level once, from the narrowest to the widest", level)
		}
	}
	if len(doc.Nodes) == 0 {
		s.fail("nodes", "is empty: want at least one group of nodes")
	}
	names := map[string]bool{}
	parts(s, "nodes", doc.Nodes, func(path string, v *scenarioNodes) { s.nodes(path, v, names) })
	queues := map[string]bool{}
	parts(s, "queues", doc.Queues, func(path string, v *scenarioQueue) {
		if queues[v.Name] {
			s.fail(path+".name", "is %q again: want each queue once", v.Name)
		}
		queues[v.Name] = true
		s.queue(path, v)
	})
	if _, problems := quota.NewTree(s.in.Queues); len(problems) > 0 {
		s.fail("queues", "%s", problems[0].Message)
	}
	parts(s, "jobs", doc.Jobs, func(path string, v *scenarioJob) { s.job(path, v, queues) })
	parts(s, "failures", doc.Failures, func(path string, v *scenarioFailure) {
		if !names[v.Node] {
			s.fail(path+".node", "is %q: want a node, such as %s", v.Node, slices.Sorted(maps.Keys(names))[0])
		}
		o := Outage{Node: v.Node, At: s.in.Start + s.duration(path+".at", v.At, 0)}
		if v.For != "" {
			o.Until = o.At + s.duration(path+".for", v.For, 1)
		}
		s.in.Outages = append(s.in.Outages, o)
	})
	s.checkFailures()
}

// checkFailures finds a node that fails while it is away.
func (s *scenarioReader) checkFailures() {
	away := map[string]int64{}
	for _, o := range slices.SortedStableFunc(slices.Values(s.in.Outages), func(a, b Outage) int { return cmp.Compare(a.At, b.At) }) {
		until, known := away[o.Node]
		if known && (until == 0 || o.At < until) {
			s.fail("failures", "node %s fails again while it is away", o.Node)
		}
		away[o.Node] = o.Until
	}
}

// duration is seconds, at least so many.
func (s *scenarioReader) duration(path, text string, least int64) int64 {
	d, err := time.ParseDuration(cmp.Or(text, "0s"))
	if err != nil || d < time.Duration(least)*time.Second || d > 100*366*24*time.Hour {
		s.fail(path, "is %q: want a duration of at least %ds, such as 90m", text, least)
		return least
	}
	return int64(math.Ceil(d.Seconds()))
}

// quantity is an amount of a resource, in thousandths; 0 for one that is not said.
func (s *scenarioReader) quantity(path, text, example string) int64 {
	if text == "" {
		return 0
	}
	q, err := resource.ParseQuantity(text)
	if err != nil || q.Sign() < 0 || q.Value() > 1<<50 {
		s.fail(path, "is %q: want an amount that is not negative, such as %s", text, example)
		return 0
	}
	return q.MilliValue()
}

const mebi = 1000 << 20 // thousandths of a byte

// atLeast is the number, or the default where it is not said.
func (s *scenarioReader) atLeast(path string, n *int, otherwise, least, most int) int {
	if n == nil {
		return otherwise
	}
	if *n < least || *n > most {
		s.fail(path, "is %d: want %d to %d", *n, least, most)
	}
	return *n
}

func (s *scenarioReader) nodes(path string, v *scenarioNodes, names map[string]bool) {
	if problems := validation.IsDNS1123Label(v.Name); len(problems) > 0 {
		s.fail(path+".name", "is %q: %s", v.Name, problems[0])
	}
	count := s.atLeast(path+".count", v.Count, 1, 1, maxNodes)
	if v.GPUs < 0 || v.GPUs > maxGPUs {
		s.fail(path+".gpus", "is %d: want 0 to %d", v.GPUs, maxGPUs)
	}
	table, known := mig.TableByProduct(v.Model)
	if v.MIG && !known {
		s.fail(path+".model", "is %q: no MIG profiles are known for it", v.Model)
	}
	memory := cmp.Or(s.quantity(path+".gpuMemory", v.GPUMemory, "80Gi")/mebi, 81920)
	domains := make([]string, len(s.in.Levels))
	for level, domain := range v.Levels {
		i := slices.Index(s.in.Levels, level)
		if i < 0 {
			s.fail(path+".levels", "has %q: want one of levels, %q", level, s.in.Levels)
			return
		}
		domains[i] = domain
	}
	if s.err != nil {
		return
	}
	inventory := inventoryOf(v.Model, v.GPUs, memory)
	if v.MIG {
		var devices []gpu.Device
		for _, d := range inventory.Devices {
			d.MIG, d.Instances = true, table.Instances()
			devices = append(devices, d)
		}
		inventory = cluster.NewInventory(cluster.SourceSlices, devices)
		s.tables = append(s.tables, table)
	}
	if len(inventory.Problems) > 0 {
		s.fail(path, "%s", inventory.Problems[0])
		return
	}
	for i := range count {
		n := Node{
			Name: v.Name, Inventory: inventory, MilliCPU: s.quantity(path+".cpu", v.CPU, "128"),
			MemoryMiB: s.quantity(path+".memory", v.Memory, "1Ti") / mebi, Domains: domains,
		}
		if v.Count != nil {
			n.Name += "-" + strconv.Itoa(i)
		}
		if names[n.Name] {
			s.fail(path+".name", "makes a second node %s: want each name once", n.Name)
			return
		}
		names[n.Name] = true
		s.in.Nodes = append(s.in.Nodes, n)
	}
}

var (
	periods = map[string]quota.Period{
		"none": quota.PeriodNone, "day": quota.PeriodDay, "week": quota.PeriodWeek, "month": quota.PeriodMonth,
		"quarter": quota.PeriodQuarter, "year": quota.PeriodYear,
	}
	enforcements = map[string]quota.Enforcement{
		"notify": quota.Notify, "throttle": quota.Throttle, "hold": quota.Hold, "drain": quota.Drain,
	}
)

// milli is GPUs in milli-GPU.
func (s *scenarioReader) milli(path string, gpus float64) int64 {
	if !(gpus >= 0 && gpus <= 1e9) {
		s.fail(path, "is %g: want 0 to a billion", gpus)
		return 0
	}
	return int64(math.Round(gpus * float64(gpu.WholeMilliGPU)))
}

func (s *scenarioReader) queue(path string, v *scenarioQueue) {
	q := quota.Spec{Name: v.Name, Parent: v.Parent, Created: int64(len(s.in.Queues)) + 1, Weight: 1}
	q.Guaranteed, q.Limit = s.milli(path+".guaranteed", v.Guaranteed), quota.NoLimit
	if v.Limit != nil {
		q.Limit = s.milli(path+".limit", *v.Limit)
	}
	if v.Weight != nil {
		q.Weight = *v.Weight
	}
	if h := v.Hours; h != nil {
		period, ok := periods[cmp.Or(h.Period, "month")]
		if !ok {
			s.fail(path+".hours.period", "is %q: want one of %s", h.Period, words(periods))
		}
		enforcement, ok := enforcements[cmp.Or(h.Enforcement, "hold")]
		if !ok {
			s.fail(path+".hours.enforcement", "is %q: want one of %s", h.Enforcement, words(enforcements))
		}
		q.Budget = &quota.Budget{
			MilliGPUSeconds: s.milli(path+".hours.limit", h.Limit) * 3600, Period: period, Enforcement: enforcement, RolloverPercent: h.Rollover,
		}
	}
	s.in.Queues = append(s.in.Queues, q)
}

func words[V any](m map[string]V) string { return strings.Join(slices.Sorted(maps.Keys(m)), ", ") }

func (s *scenarioReader) job(path string, v *scenarioJob, queues map[string]bool) {
	if v.Name == "" {
		s.fail(path+".name", "is empty: want a name")
	}
	if v.Queue != "" && !queues[v.Queue] {
		s.fail(path+".queue", "is %q: want one of queues", v.Queue)
	}
	j := Job{
		Name: v.Name, Queue: v.Queue, Priority: v.Priority, At: s.in.Start + s.duration(path+".at", v.At, 0),
		Runtime: s.duration(path+".runtime", v.Runtime, 1), Members: s.atLeast(path+".members", v.Members, 1, 1, maxMembers),
		MilliCPU: s.quantity(path+".cpu", v.CPU, "8"), MemoryMiB: s.quantity(path+".memory", v.Memory, "64Gi") / mebi,
		Topology: gang.Topology{Required: v.Topology.Required, Preferred: v.Topology.Preferred}, Where: s.file + ": " + path,
	}
	j.Stated = j.Runtime
	if v.Says != nil {
		j.Stated = s.duration(path+".says", *v.Says, 0)
	}
	j.Min = s.atLeast(path+".minMember", v.MinMember, j.Members, 1, j.Members)
	for field, level := range map[string]string{"required": j.Required, "preferred": j.Preferred} {
		if level != "" && !slices.Contains(s.in.Levels, level) {
			s.fail(path+".topology."+field, "is %q: want one of levels, %q", level, s.in.Levels)
		}
	}
	s.ask(path, v, &j)
	count := s.atLeast(path+".count", v.Count, 1, 1, maxScenarioJobs)
	every := s.duration(path+".every", v.Every, 0)
	if len(s.jobs)+count > maxScenarioJobs {
		s.fail(path+".count", "makes more than %d jobs", maxScenarioJobs)
	}
	if s.err != nil {
		return
	}
	for i := range count {
		one := j
		if v.Count != nil {
			one.Name += "-" + strconv.Itoa(i)
		}
		one.At += int64(i) * every
		s.jobs = append(s.jobs, one)
	}
}

// ask reads what a member asks for.
func (s *scenarioReader) ask(path string, v *scenarioJob, j *Job) {
	var ask gpu.Ask
	switch {
	case v.Percent != 0 && v.MIG == "":
		ask = gpu.Ask{Kind: gpu.Shared, Count: max(1, v.GPUs), MilliGPU: int64(v.Percent) * 10}
		j.MilliGPU = int64(ask.Count) * ask.MilliGPU
	case v.MIG != "" && v.Percent == 0:
		ask = gpu.Ask{Kind: gpu.MIG, Count: max(1, v.GPUs), Profile: v.MIG}
		for _, t := range s.tables {
			if p, ok := t.Profile(v.MIG); ok && j.MilliGPU == 0 {
				j.MilliGPU = int64(ask.Count) * gpu.WholeMilliGPU * int64(p.Size) / int64(t.MemorySlices)
			}
		}
		if j.MilliGPU == 0 {
			s.fail(path+".mig", "is %q: want a profile that nodes with mig: true have", v.MIG)
		}
	case v.Percent == 0:
		ask = gpu.Ask{Kind: gpu.Whole, Count: v.GPUs}
		j.MilliGPU = int64(v.GPUs) * gpu.WholeMilliGPU
	default:
		s.fail(path, "asks for a percentage and for MIG: want one of them")
		return
	}
	if err := ask.Validate(); err != nil {
		s.fail(path, "asks for %s: %v", ask, err)
		return
	}
	j.Request = gpu.Request{
		Containers: []gpu.ContainerRequest{{Name: "main", Asks: []gpu.Ask{ask}}},
		Products:   slices.Compact(slices.Sorted(slices.Values(v.Models))),
	}
}
