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
	"github.com/spf13/pflag"
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

	configv1 "weft.sh/weft/pkg/apis/config/v1"
	"weft.sh/weft/pkg/ledger"
	"weft.sh/weft/pkg/ledger/ledgerhttp"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
)

// defaultLedger is where the ledger lies unless a flag says otherwise.
const defaultLedger = "/var/lib/weft/ledger.db"

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
	levels         []string
	serving        serving
	ledger         ledgerFlags
}

// ledgerFlags are the flags about the ledger.
type ledgerFlags struct {
	dsn             string
	tick, retention time.Duration
	userLabel       string
	labels          []string
}

// ledgerEnv is the variable that has the ledger's address where no flag says it: one with a password should not stand among the arguments.
const ledgerEnv = "WEFT_LEDGER"

// NewCommand is the command weft-controller.
func NewCommand() *cobra.Command {
	c := &config{
		qps: 100, burst: 200, elect: true, leaseNamespace: "weft-system", schedulers: []string{"weft"}, serving: newServing(),
		ledger: ledgerFlags{dsn: defaultLedger, tick: 15 * time.Second, retention: 400 * 24 * time.Hour, userLabel: podspec.LabelUser},
	}
	if dsn, ok := os.LookupEnv(ledgerEnv); ok {
		c.ledger.dsn = dsn
	}
	logging := logsapi.NewLoggingConfiguration()
	root := &cobra.Command{
		Use:   name,
		Short: "Keep the ledger of GPU time and the statuses of queues and gangs, and evict gangs that run in part",
		Long: `weft-controller looks after the gangs that the Weft scheduler places, those of PodGroups of scheduling.x-k8s.io/v1alpha1 and,
where the API server serves them when this starts, of scheduling.k8s.io/v1beta1. It

  - writes the status of each PodGroup: its phase, how many members are scheduled, running, succeeded and failed, and what is missing;
    for one of scheduling.k8s.io in a condition of its own, weft.sh/GangWhole;
  - evicts the members of a gang of which fewer than its minimum have a place, after the time in its annotation
    weft.sh/partial-grace (60s by default): who holds GPUs and waits for the others would hold them for ever;
  - evicts the members of a gang with the annotation weft.sh/on-member-lost=restart when one that ran is lost.

It keeps the ledger: who held which GPUs from when to when, charged to a Queue of weft.sh. After each commit it

  - writes the status of each Queue: what is used, held and left of its budget, what runs and what waits;
  - raises alerts when a budget runs low, and evicts the pods of a queue with enforcement Drain that is used up, once they had time to
    write a checkpoint.

Pods are evicted through the Eviction API: PodDisruptionBudgets are respected. Where the definition of PodGroup of scheduling.x-k8s.io
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
	f.StringSliceVar(&c.levels, "topology-levels", defaultLevels(),
		"topology levels of the schedulers, for PodGroups that name another one to say so in their status: those of the argument topologyLevels "+
			"of plugin Gang, and by default its default; empty does not check")
	addLedgerFlag(f, &c.ledger.dsn, "; empty keeps no ledger and no statuses of queues")
	f.DurationVar(&c.ledger.tick, "ledger-tick", c.ledger.tick, "time between two commits of the ledger, at least 1s")
	f.DurationVar(&c.ledger.retention, "ledger-retention", c.ledger.retention,
		"how long the rows of pods are kept, at least 2160h (90 days); afterwards hours, days and months are")
	f.StringVar(&c.ledger.userLabel, "ledger-user-label", c.ledger.userLabel, "pod label that says who uses it; nobody checks it")
	f.StringSliceVar(&c.ledger.labels, "ledger-labels", nil, "pod labels that the ledger keeps for reports")
	c.serving.secure.AddFlags(f)
	c.serving.authentication.AddFlags(f)
	c.serving.authorization.AddFlags(f)
	root.AddCommand(&cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run:   func(cmd *cobra.Command, _ []string) { fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", name, version()) },
	}, verifyCommand(c.ledger.dsn))
	return root
}

// verifyCommand is the command weft-controller verify.
func verifyCommand(dsn string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check that nobody changed the rows of a ledger, beside whoever writes it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := ledger.OpenReadOnly(cmd.Context(), dsn)
			if err != nil {
				return fmt.Errorf("--ledger: %w", err)
			}
			defer store.Close()
			found, err := store.Verify(cmd.Context())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "verified %d links, up to %d: %x\n", found.Links, found.Seq, found.Hash)
			return err
		},
	}
	addLedgerFlag(cmd.Flags(), &dsn, "")
	return cmd
}

// addLedgerFlag adds the flag with what dsn is for a default, which the help does not show: it may have a password.
func addLedgerFlag(f *pflag.FlagSet, dsn *string, more string) {
	f.StringVar(dsn, "ledger", *dsn, "the ledger: a file for SQLite, or postgres://...; without the flag the variable "+ledgerEnv+" counts"+more)
	f.Lookup("ledger").DefValue = defaultLedger
}

// defaultLevels are the levels of a scheduler whose configuration names none, such as the one that is shipped.
func defaultLevels() []string {
	var args configv1.GangArgs
	configv1.SetDefaults_GangArgs(&args)
	return args.TopologyLevels
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
	if c.ledger.dsn != "" {
		if c.ledger.tick < time.Second || c.ledger.tick%time.Second != 0 {
			errs = append(errs, fmt.Errorf("--ledger-tick is %v: want whole seconds, at least 1s", c.ledger.tick))
		}
		if least := time.Duration(ledger.MinRetention) * time.Second; c.ledger.retention < least {
			errs = append(errs, fmt.Errorf("--ledger-retention is %v: want %v or more", c.ledger.retention, least))
		}
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
	var books ledgerhttp.Reader
	var keep *LedgerOptions
	if c.ledger.dsn != "" {
		store, err := ledger.Open(ctx, c.ledger.dsn)
		if err != nil {
			return fmt.Errorf("--ledger: %w", err)
		}
		defer store.Close()
		books = store
		keep = &LedgerOptions{
			Store: store, Tick: c.ledger.tick, Retention: c.ledger.retention, UserLabel: c.ledger.userLabel, Labels: c.ledger.labels,
		}
	}
	stopped, err := c.serving.start(ctx, c.kubeconfig, ready, books)
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
	options := Options{
		Client: client, Groups: groups, Native: native, Recorder: broadcaster.NewRecorder(scheme.Scheme, name), Schedulers: c.schedulers, Levels: c.levels,
		Ledger: keep,
	}
	controller, err := New(options)
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
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("name of this replica: %w", err)
	}
	identity := host + "_" + string(uuid.NewUUID())
	if !c.elect {
		return controller.Work(ctx, identity)
	}
	return c.lead(ctx, base, identity, controller.Work)
}

// lead calls work while it holds the lease.
func (c *config) lead(ctx context.Context, base *rest.Config, identity string, work func(ctx context.Context, holder string) error) error {
	// Its own client: a lease that waits behind the status of a thousand gangs is a lease that is lost.
	client, err := kubernetes.NewForConfig(rest.AddUserAgent(rest.CopyConfig(base), "leader-election"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: c.leaseNamespace, Name: name},
			Client:     client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: identity},
		},
		LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod,
		ReleaseOnCancel: true,
		Name:            name,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) {
				klog.FromContext(ctx).Info("Looking after gangs and queues")
				if err := work(ctx, identity); err != nil {
					cancel(err) // gives the lease back
				}
			},
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return err
	}
	elector.Run(ctx)
	switch err := context.Cause(ctx); {
	case ctx.Err() == nil:
	case errors.Is(err, context.Canceled):
		return nil
	default:
		return err
	}
	return fmt.Errorf("lost the Lease %s/%s", c.leaseNamespace, name)
}
