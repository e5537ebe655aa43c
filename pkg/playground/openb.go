package playground

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// ErrMalformed is wrapped by every error of [ReadOpenbNodes] and [ReadOpenbPods] that is about what the file says.
var ErrMalformed = errors.New("malformed openb list")

// openb bounds: far above the traces, and low enough that no sum overflows.
const (
	maxMilliCPU    = 1_000_000_000
	maxMiB         = 1 << 30
	maxGPUsPerNode = 64
)

// openbMemoryMiB is the memory of a GPU per model of the trace, which names models but not their memory. G2 and G3 are
// models that it does not disclose; they are given that of an A10 and an A100. It matters only to pods with a floor on
// memory, which the trace has not.
var openbMemoryMiB = map[string]int64{
	"A10": 23028, "G2": 23028, "G3": 40960, "P4": 7680, "P100": 16384, "T4": 15360, "V100M16": 16384, "V100M32": 32768,
}

// openbDefaultMemoryMiB is for a model that is not listed above.
const openbDefaultMemoryMiB = 16384

// ReadOpenbNodes reads a node list of the openb trace (columns sn, cpu_milli, memory_mib, gpu, model, by their names in
// any order; others are ignored). A node's GPU model is its label nvidia.com/gpu.product. file stands in errors.
func ReadOpenbNodes(r io.Reader, file string) ([]Node, error) {
	t, err := newTable(r, file, "sn", "cpu_milli", "memory_mib", "gpu", "model")
	if err != nil {
		return nil, err
	}
	var nodes []Node
	names := map[string]int{}
	for t.next() {
		name, model := t.name("sn", names), t.text("model")
		n := Node{Name: name, CPUMilli: t.number("cpu_milli", 1, maxMilliCPU), MemoryMiB: t.number("memory_mib", 1, maxMiB)}
		count := t.number("gpu", 0, maxGPUsPerNode)
		if count > 0 {
			t.checkModel("model", model)
			memory, ok := openbMemoryMiB[model]
			if !ok {
				memory = openbDefaultMemoryMiB
			}
			n.Devices = devices(name, model, int(count), memory)
			n.InstanceType = fmt.Sprintf("openb-%dx%s", count, strings.ToLower(model))
		} else {
			n.InstanceType = "openb-cpu"
		}
		nodes = append(nodes, n)
	}
	if t.err != nil {
		return nil, t.err
	}
	return nodes, nil
}

// OpenbPods is a pod list of the openb trace.
type OpenbPods struct {
	Pods []Pod
	// Rounded is the number of pods whose share is no whole percent and was rounded up.
	Rounded int
}

// ReadOpenbPods reads a pod list of the openb trace (columns name, cpu_milli, memory_mib, num_gpu, gpu_milli; gpu_spec
// may be missing, as it is in the multigpu lists; others are ignored), at most limit pods from the start, all when limit
// is 0. file stands in errors.
//
// gpu_milli is per GPU. 1000 is whole GPUs. Less is a share, in weft.sh/gpu-percent; a share that is no whole percent is
// rounded up, for a pod must not get less than it asked. gpu_spec lists the models that will do, separated by |.
func ReadOpenbPods(r io.Reader, file string, limit int) (OpenbPods, error) {
	t, err := newTable(r, file, "name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli")
	if err != nil {
		return OpenbPods{}, err
	}
	var out OpenbPods
	names := map[string]int{}
	for (limit <= 0 || len(out.Pods) < limit) && t.next() {
		p := Pod{
			Name: t.name("name", names), CPUMilli: t.number("cpu_milli", 0, maxMilliCPU),
			MemoryMiB: t.number("memory_mib", 0, maxMiB),
		}
		count, milli := t.number("num_gpu", 0, maxGPUsPerNode), t.number("gpu_milli", 0, 1000)
		switch {
		case (count == 0) != (milli == 0):
			t.fail("num_gpu is %d and gpu_milli is %d: want both 0 or none", count, milli)
		case milli == 1000:
			p.GPUs = count
		case milli > 0:
			p.Percent, p.Count = (milli+9)/10, count
			if milli%10 != 0 {
				out.Rounded++
			}
		}
		if spec := t.text("gpu_spec"); spec != "" {
			p.Products = strings.Split(spec, "|")
			for _, model := range p.Products {
				t.checkModel("gpu_spec", model)
			}
			slices.Sort(p.Products)
			p.Products = slices.Compact(p.Products)
		}
		out.Pods = append(out.Pods, p)
	}
	if t.err != nil {
		return OpenbPods{}, t.err
	}
	return out, nil
}

// table reads a CSV file with a header, row by row. The first error ends it.
type table struct {
	csv    *csv.Reader
	file   string
	column map[string]int
	row    []string
	err    error
}

func newTable(r io.Reader, file string, required ...string) (*table, error) {
	t := &table{csv: csv.NewReader(r), file: file, column: map[string]int{}}
	t.csv.FieldsPerRecord = -1 // checked here, for a message that says what is missing
	t.csv.ReuseRecord = true
	header, err := t.csv.Read()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: %s is empty: want a header with %s", ErrMalformed, file, strings.Join(required, ","))
	}
	if err != nil {
		return nil, t.readError(err)
	}
	for i, name := range header {
		name = strings.TrimPrefix(strings.TrimSpace(name), "\ufeff")
		if _, twice := t.column[name]; twice {
			return nil, fmt.Errorf("%w: %s:1: column %q stands twice", ErrMalformed, file, name)
		}
		t.column[name] = i
	}
	for _, name := range required {
		if _, ok := t.column[name]; !ok {
			return nil, fmt.Errorf("%w: %s:1: column %s is missing: want %s", ErrMalformed, file, name, strings.Join(required, ","))
		}
	}
	return t, nil
}

// readError tells a file that cannot be read from one that is no CSV.
func (t *table) readError(err error) error {
	var parse *csv.ParseError
	if errors.As(err, &parse) {
		return fmt.Errorf("%w: %s:%d: %w", ErrMalformed, t.file, parse.Line, parse.Err)
	}
	return fmt.Errorf("%s: %w", t.file, err)
}

// next reads a row; it is false at the end and after an error.
func (t *table) next() bool {
	if t.err != nil {
		return false
	}
	row, err := t.csv.Read()
	if errors.Is(err, io.EOF) {
		return false
	}
	if err != nil {
		t.err = t.readError(err)
		return false
	}
	t.row = row
	if len(row) != len(t.column) {
		t.fail("%d fields: want %d, as in the header", len(row), len(t.column))
		return false
	}
	return true
}

func (t *table) fail(format string, args ...any) {
	if t.err == nil {
		line, _ := t.csv.FieldPos(0)
		t.err = fmt.Errorf("%w: %s:%d: %s", ErrMalformed, t.file, line, fmt.Sprintf(format, args...))
	}
}

// text is a field, empty where the file has no such column.
func (t *table) text(column string) string {
	i, ok := t.column[column]
	if !ok {
		return ""
	}
	return strings.TrimSpace(t.row[i])
}

func (t *table) number(column string, least, most int64) int64 {
	s := t.text(column)
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < least || n > most {
		t.fail("%s is %q: want a whole number from %d to %d", column, s, least, most)
		return least
	}
	return n
}

// name is a field that names an object of its own.
func (t *table) name(column string, seen map[string]int) string {
	s := t.text(column)
	line, _ := t.csv.FieldPos(0)
	// A label's length, because a node's name is also the label kubernetes.io/hostname.
	if msgs := validation.IsDNS1123Label(s); len(msgs) > 0 {
		t.fail("%s is %q: %s", column, clip(s), msgs[0])
	} else if before, ok := seen[s]; ok {
		t.fail("%s is %q, as in line %d: want each name once", column, s, before)
	}
	seen[s] = line
	return s
}

// checkModel: a model becomes the value of a label.
func (t *table) checkModel(column, model string) {
	if msgs := validation.IsValidLabelValue(model); model == "" || len(msgs) > 0 {
		t.fail("%s is %q: want models of letters, digits, -, _ and .", column, clip(t.text(column)))
	}
}

// clip keeps what an error repeats of a file short.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// LoadOpenb reads a node list and a pod list from files; podFile may be empty. See [ReadOpenbNodes] and [ReadOpenbPods].
func LoadOpenb(nodeFile, podFile string, limit int) ([]Node, OpenbPods, error) {
	f, err := os.Open(nodeFile)
	if err != nil {
		return nil, OpenbPods{}, err
	}
	defer f.Close()
	nodes, err := ReadOpenbNodes(f, nodeFile)
	if err != nil || podFile == "" {
		return nodes, OpenbPods{}, err
	}
	g, err := os.Open(podFile)
	if err != nil {
		return nil, OpenbPods{}, err
	}
	defer g.Close()
	pods, err := ReadOpenbPods(g, podFile, limit)
	return nodes, pods, err
}
