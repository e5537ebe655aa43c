package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"k8s.io/component-base/version"

	"weft.sh/weft/pkg/playground"
)

const about = `weft-playground runs a Kubernetes cluster on this machine: a real etcd, a real kube-apiserver, simulated GPU nodes
(KWOK) that publish their inventory, the manifests that Weft ships, and the real weft-scheduler and weft-controller. It listens
on 127.0.0.1 only, needs neither root nor containers, and leaves nothing behind.`

// lacks says what somebody who knows Kubernetes would look for in vain.
const lacks = `The playground has no controller manager, no default scheduler and no kubelet:
  - create Pods with schedulerName: weft, not Deployments or Jobs, of which no pods would come
  - pods are bound and shown as running, and nothing runs: kubectl logs and kubectl exec do not work
  - a namespace that is deleted is not emptied, and the pods of a node that is deleted stay
  - the Deployments weft-scheduler and weft-controller show 0/2 and 0/1, for here both run as processes`

// newCommand is the command line; out gets the results and the progress.
func newCommand(out io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:               "weft-playground",
		Short:             "A Kubernetes cluster with simulated GPU nodes and the real Weft, on one machine",
		Long:              about,
		Version:           version.Get().GitVersion,
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetOut(out)
	root.SetVersionTemplate("weft-playground, with Kubernetes {{.Version}}\n")
	root.AddCommand(newDemo(out), newUp(out))
	return root
}

func newDemo(out io.Writer) *cobra.Command {
	o := options{nodes: playground.DemoNodes}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Start a cluster, schedule a mixed workload, show where everything went, and stop",
		Long: `Starts a cluster of ` + playground.DemoNodes + `, creates gangs, whole, fractional and MIG pods, some that are
bound to a GPU model or need much memory, and some that cannot run, and waits until each is bound or reported unschedulable.
Shows the GPUs with who holds them, and the reason for each pod and gang that cannot run. Exits with 0 only when exactly the
pods that fit are bound and no GPU is given twice. Takes less than a minute.`,
		Example: `  weft-playground demo
  weft-playground demo --dir /tmp/weft    # keep logs and configuration`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), out, func(ctx context.Context, r *running) error {
				return r.cluster.Demo(ctx, r.progress, func(ctx context.Context) error {
					objects, queues, err := r.objects(ctx)
					if err != nil {
						return err
					}
					r.printWaiting(objects, queues)
					r.progress.Printf("\nThe demo ends here; make up starts a cluster that stays, to try things in. This is where everything went:\n")
					return r.printMap(objects)
				})
			})
		},
	}
	o.addFlags(cmd)
	return cmd
}

func newUp(out io.Writer) *cobra.Command {
	o := options{keepScheduler: true}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a cluster and leave it running until Ctrl-C",
		Long: `Starts a cluster and prints how to reach it. It runs until Ctrl-C, and everything in it is gone afterwards; with --dir
the logs stay. weft-scheduler is started again when it ends, so that it can be killed to see what comes of it.

` + lacks + `

The nodes are either of the shapes below (--nodes) or those of a list of Alibaba's openb trace (--openb-nodes: columns
sn,cpu_milli,memory_mib,gpu,model). With --openb-pods the pods of a list of that trace are created too (columns
name,cpu_milli,memory_mib,num_gpu,gpu_milli and, where the list has it, gpu_spec), and pods bound per second and the
allocation reached are shown. A share of a GPU that is no whole percent is rounded up. The lists are those of Alibaba's
cluster-trace-gpu-v2023: https://github.com/alibaba/clusterdata, folder cluster-trace-gpu-v2023.

Shapes:
` + shapeTable(),
		Example: `  weft-playground up
  weft-playground up --nodes h100=4,l4=10 --dir /tmp/weft
  weft-playground up --openb-nodes openb_node_list_gpu_node.csv --openb-pods openb_pod_list_default.csv --pods 5000`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.openbNodes != "" && cmd.Flags().Changed("nodes") {
				return errors.New("--nodes and --openb-nodes both say which nodes there are: leave out one of them")
			}
			return o.run(cmd.Context(), out, o.up)
		},
	}
	o.addFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.nodes, "nodes", playground.DemoNodes, "simulated nodes: `SHAPE=NUMBER,...`")
	f.StringVar(&o.openbNodes, "openb-nodes", "", "simulated nodes from the openb node list `FILE`, instead of --nodes")
	f.StringVar(&o.openbPods, "openb-pods", "", "create the pods of the openb pod list `FILE`")
	f.IntVar(&o.pods, "pods", 0, "create only the first `N` pods of --openb-pods; 0 is all of them")
	f.BoolVar(&o.workload, "workload", false, "create the pods of the demo")
	f.BoolVar(&o.exit, "exit", false, "stop when the workload is placed, instead of running until Ctrl-C")
	return cmd
}

// options are those of both commands.
type options struct {
	dir, scheduler string
	apiServer      string
	apiServerArgs  []string
	schedulerArgs  []string
	leaderElection bool
	// keepScheduler is no flag: up does, and the demo has to fail.
	keepScheduler bool

	nodes                 string
	openbNodes, openbPods string
	pods                  int
	workload, exit        bool
}

func (o *options) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.dir, "dir", "", "keep state and logs in the folder `DIR`, which must be empty or not exist (default a temporary one)")
	f.StringVar(&o.scheduler, "scheduler", "", "weft-scheduler `BINARY` (default the one beside this program)")
	f.StringVar(&o.apiServer, "apiserver", "", "kube-apiserver `BINARY`, for another release (default the one in this program)")
	f.StringArrayVar(&o.apiServerArgs, "apiserver-arg", nil, "a further `FLAG` for kube-apiserver, for example --runtime-config=...; may be repeated")
	f.StringArrayVar(&o.schedulerArgs, "scheduler-arg", nil, "a further `FLAG` for weft-scheduler, for example --v=4; may be repeated")
	f.BoolVar(&o.leaderElection, "leader-elect", false, "elect a leader, as in production; the scheduler then takes seconds longer to start")
}

func (o *options) validate() error {
	if o.pods < 0 {
		return fmt.Errorf("--pods is %d: want 0 or more", o.pods)
	}
	if o.pods > 0 && o.openbPods == "" {
		return errors.New("--pods limits --openb-pods, which is missing")
	}
	if o.workload && o.openbPods != "" {
		return errors.New("--workload and --openb-pods both say which pods to create: leave out one of them")
	}
	if o.openbPods != "" && o.openbNodes == "" {
		return errors.New("--openb-pods are for the nodes of the same trace: add --openb-nodes")
	}
	if o.exit && !o.workload && o.openbPods == "" {
		return errors.New("--exit stops after a workload: add --workload or --openb-pods")
	}
	return nil
}

// running is a cluster that is up, and what it was made of.
type running struct {
	cluster  *playground.Cluster
	progress *playground.Progress
	nodes    []playground.Node
	pods     playground.OpenbPods
}

// run starts a cluster, does what is to be done with it, and stops it.
func (o *options) run(ctx context.Context, out io.Writer, do func(context.Context, *running) error) error {
	if err := o.validate(); err != nil {
		return err
	}
	r := &running{progress: playground.NewProgress(out)}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-r.progress.Closed():
			cancel()
		case <-ctx.Done():
		}
	}()
	err := o.runCluster(ctx, r, do)
	if closed := r.progress.Err(); closed != nil {
		return fmt.Errorf("stopped, because nobody reads the output: %w", closed)
	}
	return err
}

// runCluster is run without the end of the output.
func (o *options) runCluster(ctx context.Context, r *running, do func(context.Context, *running) error) error {
	var err error
	if o.openbNodes != "" {
		r.nodes, r.pods, err = playground.LoadOpenb(o.openbNodes, o.openbPods, o.pods)
	} else {
		r.nodes, err = playground.ParseNodes(o.nodes)
	}
	if err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	r.cluster, err = playground.Start(ctx, playground.Options{
		Dir: o.dir, Binary: exe, APIServer: o.apiServer, APIServerArgs: o.apiServerArgs,
		Scheduler: o.scheduler, SchedulerArgs: o.schedulerArgs, LeaderElection: o.leaderElection, KeepScheduler: o.keepScheduler,
		Nodes: r.nodes, Progress: r.progress,
	})
	if err != nil {
		return interrupted(ctx, err)
	}
	err = interrupted(ctx, do(ctx, r))
	return errors.Join(err, r.cluster.Stop())
}

// errInterrupted is the end by a signal before the work was done.
var errInterrupted = errors.New("interrupted")

// interrupted says in one word what a signal makes of an error.
func interrupted(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return errInterrupted
	}
	return err
}

// up is the work of the command of that name.
func (o *options) up(ctx context.Context, r *running) error {
	kubeconfig, err := r.cluster.ControlPlane.Kubeconfig(playground.AdminUser)
	if err != nil {
		return err
	}
	switch {
	case o.workload:
		r.printAccess(kubeconfig)
		if err := playground.CreateGroups(ctx, r.cluster.ControlPlane.AdminConfig(), playground.DemoGroups()); err != nil {
			return err
		}
		if err := playground.CreateQueues(ctx, r.cluster.ControlPlane.AdminConfig(), playground.DemoQueues()); err != nil {
			return err
		}
		if err := r.place(ctx, playground.DemoPods(), true); err != nil {
			return err
		}
	case len(r.pods.Pods) > 0:
		r.printAccess(kubeconfig)
		if r.pods.Rounded > 0 {
			r.progress.Printf("%d of %d pods ask for a share that is no whole percent; it is rounded up", r.pods.Rounded, len(r.pods.Pods))
		}
		if err := r.place(ctx, r.pods.Pods, false); err != nil {
			return err
		}
	}
	if o.exit {
		return nil
	}
	r.printAccess(kubeconfig)
	r.progress.Printf("%s\n\nCtrl-C stops it.", lacks)
	select {
	case <-ctx.Done():
		r.progress.Printf("stopping")
		return nil
	case <-r.cluster.Done():
		return r.cluster.Err()
	}
}

// printAccess says how to reach the cluster. It stands before a workload, which may take minutes that are worth watching,
// and once more where the reader ends up.
func (r *running) printAccess(kubeconfig string) {
	r.progress.Printf(`
The cluster is up; logs are in %s. Try it from another terminal:

  export KUBECONFIG=%s
  kubectl get nodes -L nvidia.com/gpu.product,nvidia.com/gpu.count
  kubectl apply -f manifests/examples/fraction.yaml
  bin/weft top            # a map of the GPUs
  bin/weft top -o wide    # every GPU and who holds it
  bin/weft top --gangs    # the gangs, and where in the racks they are
  bin/weft why POD        # why a pod waits, or where it is; manifests/examples/does-not-fit.yaml is one that waits
`, r.cluster.ControlPlane.Dir(), kubeconfig)
}

// place runs a workload and says what came of it.
func (r *running) place(ctx context.Context, pods []playground.Pod, inOrder bool) error {
	capacity := playground.Capacity(r.nodes)
	counts, unschedulable, err := r.cluster.RunWorkload(ctx, pods, inOrder, capacity, r.progress)
	if err != nil {
		return err
	}
	r.progress.Printf("%d pods bound at %.0f per second, %d unschedulable; GPUs granted: %s",
		counts.Bound, counts.PerSecond(), counts.Unschedulable, playground.Share(counts.MilliGPU, capacity))
	if len(r.nodes) > mapNodes {
		playground.PrintUnschedulable(r.progress, unschedulable)
		return nil
	}
	objects, queues, err := r.objects(ctx)
	if err != nil {
		return err
	}
	// One by one they are told more of, many are summed up.
	if len(unschedulable) <= mostReasons {
		r.progress.Printf("")
		r.printWaiting(objects, queues)
	} else {
		playground.PrintUnschedulable(r.progress, unschedulable)
	}
	r.progress.Printf("")
	return r.printMap(objects)
}

// mapNodes is how many nodes still make a map that somebody reads, mostReasons how many pods have their reasons read.
const (
	mapNodes    = 40
	mostReasons = 16
)

func shapeTable() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	for _, s := range playground.Shapes() {
		fmt.Fprintf(w, "  %s\t%s\n", s.Name, s.About)
	}
	_ = w.Flush()
	return strings.TrimRight(b.String(), "\n")
}
