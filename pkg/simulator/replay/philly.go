package replay

import (
	"fmt"
	"io"
	"iter"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"time"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/quota"
	"weft.sh/weft/pkg/trace"
)

// Philly says how a job list in the form of the Philly trace is replayed.
type Philly struct {
	File string
	// Nodes have GPUs each.
	Nodes, GPUs int
	// From is the first moment of the list that is measured, the zero time for Warmup after the first job. For is how long it is
	// measured and Warmup how long before that jobs begin to arrive, in virtual time.
	From        time.Time
	For, Warmup time.Duration
	// Compress divides the time between arrivals, not the run times.
	Compress float64
	// Estimate is what jobs say of their run time, as a part of it; 0 for nothing.
	Estimate float64
}

// phillyModel is the GPU model of the simulated nodes. The trace names none.
const (
	phillyModel     = "philly"
	phillyMemoryMiB = 16384
)

// Replay reads the list once, for what each virtual cluster uses, and makes the input: a queue for each virtual cluster, which is
// guaranteed its part of the GPU-hours, and for each job a pod, or a gang of as many pods as the nodes' size takes.
func (p *Philly) Replay() (*Input, error) {
	if p.Nodes < 1 || p.Nodes > maxNodes || p.GPUs < 1 || p.GPUs > maxGPUs {
		return nil, fmt.Errorf("%d nodes of %d GPUs: want 1 to %d of 1 to %d", p.Nodes, p.GPUs, maxNodes, maxGPUs)
	}
	if !(p.Compress >= 0.01 && p.Compress <= 1000) || !(p.Estimate >= 0 && p.Estimate <= 100) {
		return nil, fmt.Errorf("arrivals %g times as fast, run times said as %g times what they are: want 0.01 to 1000 and 0 to 100",
			p.Compress, p.Estimate)
	}
	if p.For < time.Second || p.Warmup < 0 {
		return nil, fmt.Errorf("%s to be measured after %s: want at least a second, and a time that is not negative", p.For, p.Warmup)
	}
	hours, first, sum := map[string]float64{}, time.Time{}, 0.0
	err := p.each(func(j *trace.Job) error {
		if first.IsZero() {
			first = j.Submitted
			if p.From.IsZero() {
				p.From = first.Add(time.Duration(float64(p.Warmup) * p.Compress))
			}
		}
		if at := p.at(j.Submitted); at >= p.start() && at < p.from()+seconds(p.For) {
			hours[j.Cluster] += float64(j.GPUs) * j.Duration.Hours()
			sum += float64(j.GPUs) * j.Duration.Hours()
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if sum == 0 {
		return nil, fmt.Errorf("%s: no job that runs on GPUs from %s on for %s", p.File, p.From.Format(time.DateTime), p.For)
	}
	in := &Input{Name: "philly", Start: p.start(), From: p.from(), To: p.from() + seconds(p.For), Jobs: p.jobs()}
	inventory := inventoryOf(phillyModel, p.GPUs, phillyMemoryMiB)
	for i := range p.Nodes {
		in.Nodes = append(in.Nodes, Node{Name: fmt.Sprintf("node-%05d", i), Inventory: inventory})
	}
	capacity := float64(int64(p.Nodes*p.GPUs) * gpu.WholeMilliGPU)
	for _, name := range slices.Sorted(maps.Keys(hours)) {
		guaranteed := int64(capacity * hours[name] / sum)
		in.Queues = append(in.Queues, quota.Spec{
			Name: name, Share: quota.Share{Guaranteed: guaranteed, Limit: quota.NoLimit}, Weight: max(1, guaranteed),
		})
	}
	return in, nil
}

// Bounds of what is simulated, far above what anybody has.
const (
	maxNodes = 200_000
	maxGPUs  = 64
)

// inventoryOf is that of a node with so many GPUs. Their ids need to be unique in their node only.
func inventoryOf(model string, gpus int, memoryMiB int64) cluster.Inventory {
	var devices []gpu.Device
	for g := range gpus {
		devices = append(devices, gpu.Device{ID: gpu.ID("GPU-" + strconv.Itoa(g)), Index: g, Product: model, MemoryMiB: memoryMiB})
	}
	return cluster.NewInventory(cluster.SourceSlices, devices)
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }

// start is the virtual time at which it begins, and from that from which it is measured.
func (p *Philly) start() int64 { return p.from() - seconds(p.Warmup) }
func (p *Philly) from() int64  { return p.From.Unix() }

// at is the virtual time of a moment of the list.
func (p *Philly) at(t time.Time) int64 {
	return p.from() + int64(math.Floor(t.Sub(p.From).Seconds()/p.Compress))
}

// each reads the list and checks that it is in order.
func (p *Philly) each(visit func(*trace.Job) error) error {
	f, err := os.Open(p.File)
	if err != nil {
		return err
	}
	defer f.Close()
	return eachRow(f, p.File, visit)
}

func eachRow(r io.Reader, file string, visit func(*trace.Job) error) error {
	var last time.Time
	for j, err := range trace.Philly(r, file) {
		if err != nil {
			return err
		}
		if j.Submitted.Before(last) {
			return &trace.Error{File: file, Line: j.Line, Column: "timestamp", Problem: fmt.Sprintf(
				"is %q, before that of the row above, %q: want rows in the order of their time",
				j.Submitted.Format(time.DateTime), last.Format(time.DateTime))}
		}
		last = j.Submitted
		if err := visit(&j); err != nil {
			return err
		}
	}
	return nil
}

// jobs are those that arrive from the start to the end of what is measured. Rows without GPUs are left out.
func (p *Philly) jobs() iter.Seq2[Job, error] {
	return func(yield func(Job, error) bool) {
		requests := map[int]gpu.Request{}
		err := p.each(func(row *trace.Job) error {
			at := p.at(row.Submitted)
			if at < p.start() || row.GPUs == 0 {
				return nil
			}
			if at >= p.from()+seconds(p.For) || !yield(p.job(row, at, requests), nil) {
				return errEnough
			}
			return nil
		})
		if err != nil && err != errEnough {
			yield(Job{}, err)
		}
	}
}

// errEnough ends a reading that has all it wants.
var errEnough = fmt.Errorf("enough")

func (p *Philly) job(row *trace.Job, at int64, requests map[int]gpu.Request) Job {
	members := (row.GPUs + p.GPUs - 1) / p.GPUs
	each := (row.GPUs + members - 1) / members
	if _, ok := requests[each]; !ok {
		requests[each] = wholeGPUs(each)
	}
	runtime := max(1, int64(math.Ceil(row.Duration.Seconds())))
	return Job{
		Name: "line-" + strconv.Itoa(row.Line), Queue: row.Cluster, At: at, Runtime: runtime, Stated: stated(runtime, p.Estimate),
		Members: members, Min: members, Request: requests[each], MilliGPU: int64(each) * gpu.WholeMilliGPU,
		Where: p.File + ":" + strconv.Itoa(row.Line),
	}
}

// stated is what a job says of its run time.
func stated(runtime int64, estimate float64) int64 {
	if estimate == 0 {
		return 0
	}
	return max(1, int64(math.Ceil(float64(runtime)*estimate)))
}

func wholeGPUs(count int) gpu.Request {
	return gpu.Request{Containers: []gpu.ContainerRequest{{Name: "main", Asks: []gpu.Ask{{Kind: gpu.Whole, Count: count}}}}}
}
