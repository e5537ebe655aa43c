package playground

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"weft.sh/weft/manifests"
)

// Options says which cluster to run. The zero value is an empty one.
type Options struct {
	// Dir, Binary, APIServer and APIServerArgs are as in [ControlPlaneOptions].
	Dir           string
	Binary        string
	APIServer     string
	APIServerArgs []string
	// Scheduler is the weft-scheduler binary; empty means [FindBinary].
	Scheduler string
	// Controller is the weft-controller binary, likewise.
	Controller string
	// SchedulerArgs are added to the scheduler's flags.
	SchedulerArgs []string
	// LeaderElection turns on what the shipped configuration has on: one scheduler alone is quicker without.
	LeaderElection bool
	// KeepScheduler starts the scheduler again when it ends by itself, which otherwise ends the run. It then is nobody
	// else's: Cluster.Scheduler is nil.
	KeepScheduler bool
	// Nodes are simulated.
	Nodes []Node
	// Progress gets a line per step; nil for none.
	Progress *Progress
}

// Cluster is a control plane with the shipped manifests, KWOK, simulated nodes, weft-scheduler and weft-controller.
type Cluster struct {
	*outcome
	ControlPlane *ControlPlane
	KWOK         *Process
	Scheduler    *Process
	Controller   *Process
	// SchedulerOptions are those that Scheduler was started with, to start another after it was killed.
	SchedulerOptions SchedulerOptions

	// keeper is the goroutine that keeps the scheduler, where one does.
	keeper   sync.WaitGroup
	stopOnce sync.Once
}

// Start starts a cluster and returns when its nodes are Ready and the scheduler knows them. ctx bounds the start only;
// afterwards it runs until Stop.
func Start(ctx context.Context, o Options) (_ *Cluster, err error) {
	if o.Progress == nil {
		o.Progress = NewProgress(io.Discard)
	}
	// Looked for first: what is missing should be known before anything is started.
	if o.Scheduler == "" {
		if o.Scheduler, err = FindBinary("weft-scheduler"); err != nil {
			return nil, err
		}
	}
	if o.Controller == "" {
		if o.Controller, err = FindBinary("weft-controller"); err != nil {
			return nil, err
		}
	}
	c := &Cluster{outcome: newOutcome()}
	c.ControlPlane, err = StartControlPlane(ctx, ControlPlaneOptions{
		Dir: o.Dir, Binary: o.Binary, APIServer: o.APIServer, APIServerArgs: o.APIServerArgs, Log: o.Progress,
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = c.Stop()
		}
	}()
	ctx = c.WhileRunning(ctx)
	c.watch(c.ControlPlane.Etcd())
	c.watch(c.ControlPlane.APIServer())
	if c.SchedulerOptions, err = c.applyManifests(ctx, o); err != nil {
		return nil, err
	}
	if c.KWOK, err = StartKWOK(ctx, c.ControlPlane); err != nil {
		return nil, err
	}
	c.watch(c.KWOK)
	if c.Controller, err = StartController(ctx, c.ControlPlane, o.Controller); err != nil {
		return nil, err
	}
	c.watch(c.Controller)
	o.Progress.Printf("weft-controller on %s", c.Controller.Address())

	// The scheduler fills its caches while the nodes are made.
	scheduler := make(chan error, 1)
	go func() {
		p, err := StartScheduler(ctx, c.SchedulerOptions)
		if err == nil {
			o.Progress.Printf("weft-scheduler on %s", p.Address())
			if o.KeepScheduler {
				c.keeper.Go(func() { c.keep(p, o.Progress) })
			} else {
				c.Scheduler = p
				c.watch(p)
			}
		}
		scheduler <- err
	}()
	admin := c.ControlPlane.AdminConfig()
	err = CreateNodes(ctx, admin, o.Nodes, o.Progress)
	if err := cmpErr(<-scheduler, err); err != nil {
		return nil, err
	}
	if len(o.Nodes) > 0 {
		if err := WaitNodesReady(ctx, admin, len(o.Nodes), o.Progress); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// applyManifests applies what is shipped and returns how to run the scheduler with it. The Deployment is applied too;
// without a controller manager nothing comes of it.
func (c *Cluster) applyManifests(ctx context.Context, o Options) (SchedulerOptions, error) {
	objects, err := Render(manifests.FS, ".")
	if err != nil {
		return SchedulerOptions{}, err
	}
	if err := Apply(ctx, c.ControlPlane.AdminConfig(), objects); err != nil {
		return SchedulerOptions{}, err
	}
	o.Progress.Printf("%d objects of the manifests applied", len(objects))
	kubeconfig, err := c.ControlPlane.Kubeconfig(SchedulerUser)
	if err != nil {
		return SchedulerOptions{}, err
	}
	config, err := SchedulerConfig(objects, kubeconfig, o.LeaderElection)
	if err != nil {
		return SchedulerOptions{}, err
	}
	path := filepath.Join(c.ControlPlane.Dir(), "weft-scheduler.yaml")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		return SchedulerOptions{}, err
	}
	return SchedulerOptions{Binary: o.Scheduler, Kubeconfig: kubeconfig, Config: path, Args: o.SchedulerArgs}, nil
}

// WhileRunning is a context that ends with ctx and when the run ends, with the reason as its cause.
func (c *Cluster) WhileRunning(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-c.Done():
			cancel(cmpErr(c.Err(), fmt.Errorf("the cluster was stopped: %w", context.Canceled)))
		case <-ctx.Done():
			cancel(nil)
		}
	}()
	return ctx
}

// Stop ends the servers, the scheduler first, and removes the directory unless the caller named it.
func (c *Cluster) Stop() error {
	var err error
	c.stopOnce.Do(func() {
		c.finish(nil)
		c.keeper.Wait()
		var wg sync.WaitGroup
		for _, p := range []*Process{c.Scheduler, c.Controller, c.KWOK} {
			if p != nil {
				wg.Go(p.Stop)
			}
		}
		wg.Wait()
		err = c.ControlPlane.Stop()
	})
	return err
}
