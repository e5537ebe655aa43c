package controller

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/klog/v2"

	"weft.sh/weft/pkg/podgroup"
)

// The timing of the lease is that of Kubernetes' own controllers.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

// config is what the flags say.
type config struct {
	kubeconfig     string
	qps            float32
	burst          int
	elect          bool
	leaseNamespace string
	schedulers     []string
	serving        serving
}

// NewCommand is the command weft-controller.
func NewCommand() *cobra.Command {
	c := &config{
		qps: 100, burst: 200, elect: true, leaseNamespace: "weft-system", schedulers: []string{"weft"}, serving: newServing(),
	}
	logging := logsapi.NewLoggingConfiguration()
	root := &cobra.Command{
		Use:   name,
		Short: "Say where gangs stand, and evict those that run in part",
		Long: `weft-controller looks after the gangs that the Weft scheduler places, those of PodGroups of scheduling.x-k8s.io/v1alpha1 and,
where the API server serves them when this starts, of scheduling.k8s.io/v1beta1. It

  - writes the status of each PodGroup: its phase, how many members are scheduled, running, succeeded and failed, and what is missing;
    for one of scheduling.k8s.io in a condition of its own, weft.sh/GangWhole;
  - evicts the members of a gang of which fewer than its minimum have a place, after the time in its annotation
    weft.sh/partial-grace (60s by default): who holds GPUs and waits for the others would hold them for ever;
  - evicts the members of a gang with the annotation weft.sh/on-member-lost=restart when one that ran is lost.

Members are evicted through the Eviction API: PodDisruptionBudgets are respected. Where the definition of PodGroup of scheduling.x-k8s.io
is not installed, it says so and waits until it is.`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			return logsapi.ValidateAndApply(logging, nil)
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w\nsee %s --help", err, cmd.CommandPath())
	})
	logsapi.AddFlags(logging, root.PersistentFlags())
	f := root.Flags()
	f.StringVar(&c.kubeconfig, "kubeconfig", "", "kubeconfig file of the API server; empty is that of the cluster which this runs in")
	f.Float32Var(&c.qps, "kube-api-qps", c.qps, "requests a second to the API server")
	f.IntVar(&c.burst, "kube-api-burst", c.burst, "requests to the API server at once, after a while with fewer")
	f.BoolVar(&c.elect, "leader-elect", c.elect, "work only while holding the Lease "+name+", as is needed where several replicas run")
	f.StringVar(&c.leaseNamespace, "leader-elect-namespace", c.leaseNamespace, "namespace of the Lease")
	f.StringSliceVar(&c.schedulers, "scheduler-names", c.schedulers,
		"spec.schedulerName of the pods whose gangs are looked after; gangs of other schedulers are left alone")
	c.serving.secure.AddFlags(f)
	c.serving.authentication.AddFlags(f)
	c.serving.authorization.AddFlags(f)
	root.AddCommand(&cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run:   func(cmd *cobra.Command, _ []string) { fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", name, version()) },
	})
	return root
}

// version says what was built, and from what.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return info.Main.Version + ", revision " + s.Value
		}
	}
	return info.Main.Version
}

func (c *config) validate() error {
	errs := append(c.serving.validate(), Options{Schedulers: c.schedulers}.validate())
	if c.qps <= 0 || c.burst < 1 {
		errs = append(errs, fmt.Errorf("--kube-api-qps is %v and --kube-api-burst %d: want both above 0", c.qps, c.burst))
	}
	if c.elect && c.leaseNamespace == "" {
		errs = append(errs, errors.New("--leader-elect-namespace is empty: want the namespace of the Lease, or --leader-elect=false"))
	}
	return utilerrors.NewAggregate(errs)
}

// run works until ctx ends. Losing the lease is an error: somebody else works now, and whoever started this starts it anew.
func (c *config) run(ctx context.Context) error {
	if err := c.validate(); err != nil {
		return err
	}
	base, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig)
	if err != nil {
		return fmt.Errorf("--kubeconfig is %q: %w", c.kubeconfig, err)
	}
	base.UserAgent, base.QPS, base.Burst = rest.DefaultKubernetesUserAgent(), c.qps, c.burst
	// An API server that will not serve a version for ever says so with every answer.
	base.WarningHandler = rest.NewWarningWriter(os.Stderr, rest.WarningWriterOptions{Deduplicate: true})
	client, err := kubernetes.NewForConfig(base)
	if err != nil {
		return err
	}
	groups, err := dynamic.NewForConfig(base)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	var synced atomic.Bool
	ready := healthz.NamedCheck("caches", func(*http.Request) error {
		if !synced.Load() {
			return errors.New("not all pods and PodGroups are known yet")
		}
		return nil
	})
	stopped, err := c.serving.start(ctx, c.kubeconfig, ready)
	if err != nil {
		return err
	}
	defer stopped()
	defer cancel() // before stopped

	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: client.EventsV1()})
	if err := broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return fmt.Errorf("events: %w", err)
	}
	defer broadcaster.Shutdown()
	native, err := podgroup.NativeServed(ctx, client.Discovery())
	if err != nil {
		return nil // told to stop
	}
	if !native {
		klog.FromContext(ctx).Info("The API server does not serve native PodGroups; if it is to, start this again then", "resource", podgroup.NativeResource)
	}
	controller, err := New(Options{
		Client: client, Groups: groups, Native: native, Recorder: broadcaster.NewRecorder(scheme.Scheme, name), Schedulers: c.schedulers,
	})
	if err != nil {
		return err
	}
	if err := controller.Start(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // told to stop
		}
		return err
	}
	synced.Store(true)
	if !c.elect {
		controller.Work(ctx)
		return nil
	}
	return c.lead(ctx, base, controller.Work)
}

// lead calls work while it holds the lease.
func (c *config) lead(ctx context.Context, base *rest.Config, work func(context.Context)) error {
	// Its own client: a lease that waits behind the status of a thousand gangs is a lease that is lost.
	client, err := kubernetes.NewForConfig(rest.AddUserAgent(rest.CopyConfig(base), "leader-election"))
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("name for the Lease: %w", err)
	}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: c.leaseNamespace, Name: name},
			Client:     client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: host + "_" + string(uuid.NewUUID())},
		},
		LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod,
		ReleaseOnCancel: true,
		Name:            name,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) {
				klog.FromContext(ctx).Info("Looking after the gangs")
				work(ctx)
			},
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return err
	}
	elector.Run(ctx)
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("lost the Lease %s/%s", c.leaseNamespace, name)
}
