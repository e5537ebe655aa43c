package report

// Data is what a report shows. Percentages are 0 to 100, times are seconds of virtual time from the beginning of the run. A
// run, here, is what is compared: a policy, or the same policy with other settings; its name has the same colour throughout.
type Data struct {
	Title string `json:"title"`
	// About is a sentence or two below the title.
	About string `json:"about,omitempty"`
	// Settings say what was run, so that it can be run again: lists, seeds, load, version.
	Settings []Setting `json:"settings,omitempty"`
	Tables   []Table   `json:"tables,omitempty"`
	Curves   []Curve   `json:"curves,omitempty"`
	Map      *Map      `json:"map,omitempty"`
	Series   []Series  `json:"series,omitempty"`
	Queues   []Queue   `json:"queues,omitempty"`
	Gangs    []Gang    `json:"gangs,omitempty"`
}

// Setting is a name and what it was set to.
type Setting struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Table is figures to compare.
type Table struct {
	Title   string   `json:"title"`
	About   string   `json:"about,omitempty"`
	Columns []Column `json:"columns"`
	Rows    []Row    `json:"rows"`
}

// Column is one figure.
type Column struct {
	Name string `json:"name"`
	// Unit stands behind each value: "%", "GPUs"; empty for none.
	Unit     string `json:"unit,omitempty"`
	Decimals int    `json:"decimals,omitempty"`
	// Better is "higher" or "lower": the best of the rows of a group is then marked. Empty marks none.
	Better string `json:"better,omitempty"`
}

// Row is the figures of one run. Rows of one Group (a workload) are compared with each other and stand together.
type Row struct {
	Group string `json:"group"`
	Run   string `json:"run"`
	// Cells are as many as the table has columns.
	Cells []Cell `json:"cells"`
}

// Cell is a figure: the mean over the seeds and the standard deviation between them. Nil is a figure that there is not.
type Cell struct {
	Value     *float64 `json:"value"`
	Deviation *float64 `json:"deviation,omitempty"`
}

// Curve is how allocation and fragments of one workload under one policy grow with what arrives.
type Curve struct {
	Workload string `json:"workload"`
	Run      string `json:"run"`
	// Arrived is what the pods that have arrived ask for, in percent of the GPU capacity, growing.
	Arrived []float64 `json:"arrived"`
	// Alloc and Fragments are in percent of the GPU capacity, with as many values as Arrived.
	Alloc     Band `json:"alloc"`
	Fragments Band `json:"fragments"`
	// BoundAt100 is what no placement can exceed when 100 percent have arrived, nil when it was not computed.
	BoundAt100 *float64 `json:"boundAt100,omitempty"`
}

// Band is the mean over the seeds and the least and the most of them; Min and Max are nil when there is one seed.
type Band struct {
	Mean []float64 `json:"mean"`
	Min  []float64 `json:"min,omitempty"`
	Max  []float64 `json:"max,omitempty"`
}

// Map is how full each GPU was over time, in one or several runs on the same nodes. [Write] leaves out frames, evenly, of a map
// that would make the file larger by more than some 2 MB.
type Map struct {
	About string    `json:"about,omitempty"`
	Nodes []MapNode `json:"nodes"`
	Runs  []MapRun  `json:"runs"`
}

// MapNode is a node of the map. Nodes of one model are shown together.
type MapNode struct {
	Name  string `json:"name"`
	Model string `json:"model"`
	GPUs  int    `json:"gpus"`
}

// MapRun is the frames of one run, in order of time.
type MapRun struct {
	Run    string  `json:"run"`
	Frames []Frame `json:"frames"`
}

// Frame is one time: Label says which ("45.0 % arrived", "3.5 d").
type Frame struct {
	Label string `json:"label"`
	// Used is what is used of each GPU, in percent, node by node in the order of Map.Nodes: a byte of 0 to 100 for each.
	Used []byte `json:"used"`
}

// Series is something over virtual time: what is allocated, how many jobs wait.
type Series struct {
	Title string `json:"title"`
	About string `json:"about,omitempty"`
	// Unit stands behind each value: "%", "GPUs", "jobs".
	Unit  string `json:"unit,omitempty"`
	Lines []Line `json:"lines"`
}

// Line is the values of one run at growing times; there are as many of both.
type Line struct {
	Run     string    `json:"run"`
	Seconds []float64 `json:"seconds"`
	Values  []float64 `json:"values"`
}

// Queue is what one queue got in one run.
type Queue struct {
	Run  string `json:"run"`
	Name string `json:"name"`
	Jobs int    `json:"jobs"`
	// Wait is from submission to start and Completion from submission to end; nil when no job came so far.
	Wait       *Times  `json:"wait,omitempty"`
	Completion *Times  `json:"completion,omitempty"`
	Budget     *Budget `json:"budget,omitempty"`
}

// Times are percentiles of times in seconds, each at least the one before it; nil is one that was not measured.
type Times struct {
	Min *float64 `json:"min,omitempty"`
	P25 *float64 `json:"p25,omitempty"`
	P50 float64  `json:"p50"`
	P75 *float64 `json:"p75,omitempty"`
	P95 float64  `json:"p95"`
	Max *float64 `json:"max,omitempty"`
}

// Budget is what a queue used of what it was granted: its budget, or what its share entitled it to. Granted is above 0.
type Budget struct {
	UsedGPUHours    float64 `json:"usedGPUHours"`
	GrantedGPUHours float64 `json:"grantedGPUHours"`
}

// Gang is the gangs of one size in one run.
type Gang struct {
	Run string `json:"run"`
	// GPUs is the size of each of them.
	GPUs  int `json:"gpus"`
	Count int `json:"count"`
	// Wait is from submission until all members had started; nil when none did.
	Wait *Times `json:"wait,omitempty"`
}
