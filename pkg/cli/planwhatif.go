package cli

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/queues"
	"weft.sh/weft/pkg/snapshot"
)

// WhatIf is what of a snapshot's waiting pods would start as it is, and with changes: `weft plan what-if -o json`.
type WhatIf struct {
	// APIVersion is cli.weft.sh/v1, Kind is WhatIf.
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// Taken is when the snapshot was taken, in RFC 3339.
	Taken string `json:"taken"`
	// Changes are what was changed, in words.
	Changes []string `json:"changes"`
	Before  Outcome  `json:"before"`
	After   Outcome  `json:"after"`
	// Queues are by name; empty is pods of no queue.
	Queues []QueueOutcome `json:"queues"`
	// NotChecked is what a place depends on beside what the snapshot has, and Problems what of it could not be read; in words.
	NotChecked []string `json:"notChecked"`
	Problems   []string `json:"problems"`
}

// Outcome is what a cluster has and lets start.
type Outcome struct {
	// NodeCount are all nodes, CapacityMilliGPU their GPUs, AssignedMilliGPU what of them is held once what has room has started.
	NodeCount        int   `json:"nodeCount"`
	CapacityMilliGPU int64 `json:"capacityMilliGPU"`
	AssignedMilliGPU int64 `json:"assignedMilliGPU"`
	AssignedPerMille int64 `json:"assignedPerMille"`
	Starts           Count `json:"starts"`
	// Moved are pods that run in the snapshot, and lose their place by the change; Replaced are those of them that find another.
	Moved    Count `json:"moved"`
	Replaced Count `json:"replaced"`
	// Reasons are why jobs do not start.
	Reasons []WaitReason `json:"reasons"`
}

// Count is pods, and of how many gangs they are.
type Count struct {
	PodCount  int   `json:"podCount"`
	GangCount int   `json:"gangCount"`
	MilliGPU  int64 `json:"milliGPU"`
}

// WaitReason is how many jobs, pods by themselves and gangs, do not start for a reason of docs/cli.md, or for want of room.
type WaitReason struct {
	Reason   string `json:"reason"`
	JobCount int    `json:"jobCount"`
}

// QueueOutcome is what waits in a queue, and what of it starts.
type QueueOutcome struct {
	Queue   string `json:"queue"`
	Waiting Count  `json:"waiting"`
	Before  Count  `json:"before"`
	After   Count  `json:"after"`
}

// noRoom is the reason of a job that may start and has no place.
const noRoom = "NoRoom"

// whatIfOptions are the flags of weft plan what-if.
type whatIfOptions struct {
	snapshot, output string
	add, limits      []string
	withoutSpot      bool
	share            int
	inference        []string
}

func newPlanWhatIf(s *shell) *cobra.Command {
	o := &whatIfOptions{}
	cmd := &cobra.Command{
		Use:   "what-if",
		Short: "Say which of the pods that wait would start if the cluster were changed",
		Long: `Say which of the pods and gangs that wait in a snapshot would start at once, as the cluster is and with the changes that are given.

It is decided by the code of the scheduler: queues, limits and budgets, whose turn it is, the GPUs of nodes, and gangs as a whole. Nothing
ends and nobody is evicted meanwhile. docs/planning.md says what a change means and what is not counted.`,
		Example: `  # Four more nodes like those with H100s
  weft snapshot | weft plan what-if --snapshot - --add-nodes 4xh100

  # A limit, and no spot nodes
  weft plan what-if --snapshot cluster.json --set-limit research=64 --without-spot

  # Inference on a quarter of a GPU
  weft plan what-if --snapshot cluster.json --share-inference 25`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := validOutput(o.output, "json", "yaml"); err != nil {
				return err
			}
			if o.snapshot == "" {
				return errors.New("--snapshot is not given: want a file of weft snapshot, or - for the standard input")
			}
			d, objects, err := s.readSnapshot(o.snapshot)
			if err != nil {
				return err
			}
			w, err := newWhatIf(d, objects, o)
			if err != nil {
				return err
			}
			if o.output != "" {
				return encode(s.streams.Out, o.output, w)
			}
			return RenderWhatIf(s.streams.Out, w, s.colour(), ascii())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.snapshot, "snapshot", "", "A file of weft snapshot; - is the standard input")
	f.StringArrayVar(&o.add, "add-nodes", nil, "Nodes like some that there are: COUNTxPRODUCT, of the model a part that no other has, such as 4xh100; may be repeated")
	f.StringArrayVar(&o.limits, "set-limit", nil, "The limit of a queue: QUEUE=GPUS, or QUEUE=none; may be repeated")
	f.BoolVar(&o.withoutSpot, "without-spot", false, "Take all spot nodes away")
	f.IntVar(&o.share, "share-inference", 0, "Give pods that never end by themselves and ask for one whole GPU so many percent of one, 1 to 100")
	f.StringArrayVar(&o.inference, "inference-queue", nil, "With --share-inference, only pods of this queue; may be repeated")
	f.StringVarP(&o.output, "output", "o", "", "json or yaml; the default is for people")
	complete(cmd, "output", "json", "yaml")
	return cmd
}

// newWhatIf tries the snapshot as it is, and with the changes.
func newWhatIf(d *snapshot.Document, before *snapshot.Objects, o *whatIfOptions) (WhatIf, error) {
	w := WhatIf{
		APIVersion: APIVersion, Kind: "WhatIf", Taken: d.Taken.UTC().Format(time.RFC3339), Changes: []string{}, Queues: []QueueOutcome{},
		Problems: listed(before.State().Problems),
	}
	c, err := o.change(d, before)
	if err != nil {
		return WhatIf{}, err
	}
	w.Changes = c.words
	after, err := c.document.Objects()
	if err != nil {
		return WhatIf{}, err
	}
	lines := map[string]*QueueOutcome{}
	at := func(queue string) *QueueOutcome {
		if lines[queue] == nil {
			lines[queue] = &QueueOutcome{Queue: queue}
		}
		return lines[queue]
	}
	for _, side := range []struct {
		d     *snapshot.Document
		o     *snapshot.Objects
		moved map[string]bool
		first map[string]bool
		to    *Outcome
		count func(*QueueOutcome) *Count
	}{
		{d, before, nil, nil, &w.Before, func(q *QueueOutcome) *Count { return &q.Before }},
		{&c.document, after, c.moved, c.first, &w.After, func(q *QueueOutcome) *Count { return &q.After }},
	} {
		t, err := newTrial(side.d, side.o, side.first)
		if err != nil {
			return WhatIf{}, err
		}
		t.run()
		*side.to = t.outcome(side.moved)
		for _, j := range t.jobs {
			queue, _ := t.set.QueueOf(j.pods[0])
			line := at(queue)
			if side.moved == nil {
				line.Waiting.add(j, func(string) bool { return true })
			}
			side.count(line).add(j, func(uid string) bool { return j.started[uid] && !side.moved[uid] })
		}
		w.NotChecked = t.unknown(side.d)
	}
	for _, queue := range slices.Sorted(maps.Keys(lines)) {
		if lines[queue].Waiting.PodCount > 0 {
			w.Queues = append(w.Queues, *lines[queue])
		}
	}
	return w, nil
}

// add adds the pods of a job that are meant.
func (c *Count) add(j *trialJob, meant func(uid string) bool) {
	some := false
	for _, p := range j.pods {
		if uid := string(p.UID); meant(uid) {
			c.PodCount++
			c.MilliGPU += j.milliGPU[uid]
			some = true
		}
	}
	if some && j.gang != nil {
		c.GangCount++
	}
}

// outcome is what has become of the trial.
func (t *trial) outcome(moved map[string]bool) Outcome {
	o := Outcome{NodeCount: len(t.nodes), Reasons: []WaitReason{}}
	for _, n := range t.nodes {
		if n.gpus == nil {
			continue
		}
		for i := range n.gpus.GPUs {
			o.CapacityMilliGPU += gpu.WholeMilliGPU
			o.AssignedMilliGPU += min(n.gpus.AssignedMilliGPU(i), gpu.WholeMilliGPU)
		}
	}
	if o.CapacityMilliGPU > 0 {
		o.AssignedPerMille = o.AssignedMilliGPU * 1000 / o.CapacityMilliGPU
	}
	reasons := map[string]int{}
	for _, j := range t.jobs {
		o.Starts.add(j, func(uid string) bool { return j.started[uid] && !moved[uid] })
		o.Moved.add(j, func(uid string) bool { return moved[uid] })
		o.Replaced.add(j, func(uid string) bool { return j.started[uid] && moved[uid] })
		switch {
		case j.done:
		case j.refused != "":
			reasons[j.refused]++
		default:
			reasons[noRoom]++
		}
	}
	for reason, n := range reasons {
		o.Reasons = append(o.Reasons, WaitReason{reason, n})
	}
	slices.SortFunc(o.Reasons, func(a, b WaitReason) int {
		return cmp.Or(cmp.Compare(b.JobCount, a.JobCount), strings.Compare(a.Reason, b.Reason))
	})
	return o
}

// changed is a snapshot with changes.
type changed struct {
	document snapshot.Document
	words    []string
	// moved are the UIDs of pods that lost their place, first those of them that are only made anew.
	moved, first map[string]bool
}

// change makes the changes of the flags, in a copy.
func (o *whatIfOptions) change(d *snapshot.Document, objects *snapshot.Objects) (*changed, error) {
	c := &changed{document: *d, words: []string{}, moved: map[string]bool{}, first: map[string]bool{}}
	c.document.Nodes, c.document.Pods, c.document.Queues = slices.Clone(d.Nodes), slices.Clone(d.Pods), slices.Clone(d.Queues)
	for _, limit := range o.limits {
		if err := c.setLimit(limit); err != nil {
			return nil, fmt.Errorf("--set-limit is %q: %w", limit, err)
		}
	}
	if o.withoutSpot {
		c.withoutSpot()
	}
	switch {
	case o.share < 0 || o.share > 100:
		return nil, fmt.Errorf("--share-inference is %d: want percent, 1 to 100", o.share)
	case o.share > 0:
		if err := c.shareInference(o.share, o.inference, objects); err != nil {
			return nil, err
		}
	case len(o.inference) > 0:
		return nil, errors.New("--inference-queue is given without --share-inference: want both")
	}
	for i, add := range o.add {
		if err := c.addNodes(add, i+1, d.TopologyLevels); err != nil {
			return nil, fmt.Errorf("--add-nodes is %q: %w", add, err)
		}
	}
	return c, nil
}

// gpusForm is how a limit is written: as in a Queue.
var gpusForm = regexp.MustCompile(`^([0-9]{1,7}([.][0-9]{1,3})?|[0-9]{1,10}m)$`)

func (c *changed) setLimit(text string) error {
	name, gpus, ok := strings.Cut(text, "=")
	if !ok || gpus != "none" && !gpusForm.MatchString(gpus) {
		return errors.New("want QUEUE=GPUS, such as research=64 or research=none")
	}
	i := slices.IndexFunc(c.document.Queues, func(q snapshot.Queue) bool { return q.Name == name })
	if i < 0 {
		var names []string
		for _, q := range c.document.Queues {
			names = append(names, q.Name)
		}
		return fmt.Errorf("the snapshot has no queue %q: want one of %s", name, strings.Join(names, ", "))
	}
	q := &c.document.Queues[i]
	was := "none"
	if q.Spec.GPUs.Limit != nil {
		was = q.Spec.GPUs.Limit.String()
	}
	if q.Spec.GPUs.Limit = nil; gpus != "none" {
		limit, err := resource.ParseQuantity(gpus)
		if err != nil {
			return err
		}
		if g := q.Spec.GPUs.Guaranteed; g != nil && limit.Cmp(*g) < 0 {
			return fmt.Errorf("the queue is guaranteed %s GPUs: want no less", g)
		}
		q.Spec.GPUs.Limit = &limit
	}
	c.words = append(c.words, fmt.Sprintf("queue %s has the limit %s, which was %s", name, gpus, was))
	return nil
}

// withoutSpot takes spot nodes away. The pods on them wait again.
func (c *changed) withoutSpot() {
	gone := map[string]bool{}
	c.document.Nodes = slices.DeleteFunc(c.document.Nodes, func(n snapshot.Node) bool {
		if snapshot.IsSpot(n.Labels) {
			gone[n.Name] = true
		}
		return gone[n.Name]
	})
	for i := range c.document.Pods {
		if p := &c.document.Pods[i]; gone[p.Node] {
			c.unbind(p)
		}
	}
	c.words = append(c.words, fmt.Sprintf("%s of spot taken away", count(len(gone), "node")))
}

// unbind takes the pod's place away.
func (c *changed) unbind(p *snapshot.Pod) {
	p.Node, p.Bound, p.Started, p.Phase = "", nil, nil, string(v1.PodPending)
	p.Annotations = maps.Clone(p.Annotations)
	delete(p.Annotations, podspec.AnnotationGPUs)
	c.moved[p.UID] = true
}

// shareInference has services that ask for one whole GPU ask for a part of one. Those that run are made anew.
func (c *changed) shareInference(percent int, of []string, objects *snapshot.Objects) error {
	set := queues.NewSet(objects.Queues, objects.Classes, objects.Namespaces)
	for _, name := range of {
		if _, ok := set.Tree().Spec(name); !ok {
			return fmt.Errorf("--inference-queue is %q: want one of %s", name, strings.Join(set.Tree().Names(), ", "))
		}
	}
	running, waiting := 0, 0
	for i := range c.document.Pods {
		p := &c.document.Pods[i]
		queue, _ := set.QueueOf(objects.Pods[i])
		if !isInference(p, cmp.Or(c.document.SchedulerName, DefaultSchedulerName)) || len(of) > 0 && !slices.Contains(of, queue) {
			continue
		}
		p.Containers = slices.Clone(p.Containers)
		for j := range p.Containers {
			if _, asks := p.Containers[j].Requests[podspec.ResourceGPU]; asks {
				p.Containers[j].Requests = maps.Clone(p.Containers[j].Requests)
				delete(p.Containers[j].Requests, podspec.ResourceGPU)
				p.Containers[j].Requests[podspec.ResourceGPUPercent] = *resource.NewQuantity(int64(percent), resource.DecimalSI)
			}
		}
		if p.Node == "" {
			waiting++
			continue
		}
		running++
		c.unbind(p)
		c.first[p.UID] = true
	}
	c.words = append(c.words, fmt.Sprintf("%s that run and %d that wait ask for %d%% of a GPU in place of a whole one", count(running, "service"), waiting, percent))
	return nil
}

// isInference reports whether the pod is taken for inference: a service of Weft's, in no gang, of which one container asks for one whole
// GPU and nothing else asks for GPUs.
func isInference(p *snapshot.Pod, scheduler string) bool {
	if !p.Service || p.Scheduler != scheduler || p.PodGroup != "" || p.NativePodGroup != "" || p.Deleting {
		return false
	}
	whole := 0
	for _, c := range p.Containers {
		for name, q := range c.Requests {
			switch {
			case name == podspec.ResourceGPU && q.Value() == 1 && !c.Init:
				whole++
			case (name == podspec.ResourceGPU || name == podspec.ResourceGPUPercent || strings.HasPrefix(string(name), podspec.ResourceMIGPrefix)) && q.Sign() > 0:
				return false
			}
		}
	}
	return whole == 1
}

var addForm = regexp.MustCompile(`^([1-9][0-9]{0,3})x(.+)$`)

// addNodes adds nodes like the most frequent kind that has GPUs of a model. They share a domain of their own of every level, and are not
// spot.
func (c *changed) addNodes(text string, number int, levels []string) error {
	m := addForm.FindStringSubmatch(text)
	if m == nil {
		return errors.New("want COUNTxPRODUCT with a count from 1 to 9999, such as 4xh100")
	}
	n, _ := strconv.Atoi(m[1])
	template, err := c.template(m[2])
	if err != nil {
		return err
	}
	for i := range n {
		c.document.Nodes = append(c.document.Nodes, like(template, fmt.Sprintf("added-%d-%d", number, i), fmt.Sprintf("added-%d", number), levels))
	}
	c.words = append(c.words, fmt.Sprintf("%s added like %s, with %d of %s", count(n, "node"), template.Name, gpuCount(template), productOf(template)))
	return nil
}

// productOf is the model of the node's GPUs, and gpuCount how many it has.
func productOf(n *snapshot.Node) string {
	if n.GPUs != nil && len(*n.GPUs) > 0 {
		return (*n.GPUs)[0].Product
	}
	return n.Labels[podspec.LabelProduct]
}

func gpuCount(n *snapshot.Node) int {
	if n.GPUs != nil {
		return len(*n.GPUs)
	}
	count, _ := strconv.Atoi(n.Labels[podspec.LabelCount])
	return count
}

// template is the node to copy: of those with GPUs of the one model that has the text in its name, one with the most frequent number of
// them, and of these the first.
func (c *changed) template(text string) (*snapshot.Node, error) {
	products, kinds := map[string]bool{}, map[int]int{}
	var all []string
	var fitting []*snapshot.Node
	for i := range c.document.Nodes {
		n := &c.document.Nodes[i]
		product := productOf(n)
		if product == "" || gpuCount(n) == 0 {
			continue
		}
		if !slices.Contains(all, product) {
			all = append(all, product)
		}
		if strings.Contains(strings.ToLower(product), strings.ToLower(text)) {
			products[product] = true
			kinds[gpuCount(n)]++
			fitting = append(fitting, n)
		}
	}
	slices.Sort(all)
	switch {
	case len(all) == 0:
		return nil, errors.New("no node of the snapshot has GPUs to take for an example")
	case len(products) == 0:
		return nil, fmt.Errorf("no node of the snapshot has GPUs of a model with %q in its name: want one of %s", text, strings.Join(all, ", "))
	case len(products) > 1:
		return nil, fmt.Errorf("%q is in the names of several models: want one of %s", text, strings.Join(slices.Sorted(maps.Keys(products)), ", "))
	}
	return slices.MinFunc(fitting, func(a, b *snapshot.Node) int {
		return cmp.Or(cmp.Compare(kinds[gpuCount(b)], kinds[gpuCount(a)]), cmp.Compare(gpuCount(b), gpuCount(a)), strings.Compare(a.Name, b.Name))
	}), nil
}

// like is a node like another, empty and healthy.
func like(template *snapshot.Node, name, domain string, levels []string) snapshot.Node {
	n := *template
	n.Name, n.Unschedulable, n.Taints = name, false, nil
	for _, t := range template.Taints {
		if !strings.HasPrefix(t.Key, "node.kubernetes.io/") { // those say what is wrong with the other
			n.Taints = append(n.Taints, t)
		}
	}
	n.Labels = maps.Clone(template.Labels)
	for _, level := range levels {
		if _, has := n.Labels[level]; has {
			n.Labels[level] = domain
		}
	}
	if _, has := n.Labels[v1.LabelHostname]; has {
		n.Labels[v1.LabelHostname] = name
	}
	if _, has := n.Labels[podspec.LabelClique]; has {
		n.Labels[podspec.LabelClique] = domain
	}
	for _, s := range snapshot.Spots() {
		delete(n.Labels, s.Key)
	}
	if template.GPUs == nil {
		return n
	}
	devices := slices.Clone(*template.GPUs)
	for i := range devices {
		d := &devices[i]
		d.ID, d.Unhealthy = fmt.Sprintf("GPU-%s-%d", name, d.Index), false
		if d.Clique != "" {
			d.Clique = domain
		}
	}
	n.GPUs = &devices
	return n
}
