package playground

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"time"
)

// SchedulerOptions says how to run weft-scheduler.
type SchedulerOptions struct {
	// Binary is weft-scheduler; empty means [FindBinary].
	Binary string
	// Kubeconfig is the file with which it asks about those who ask it, and its own where Config is empty. Required; see
	// [ControlPlane.Kubeconfig] and [SchedulerUser].
	Kubeconfig string
	// Config is a file with a KubeSchedulerConfiguration, which then also names the kubeconfig; empty for none.
	Config string
	// Args are added to the flags, and win where a flag is given twice.
	Args []string
	// Name is the name of the process and of its log, for several schedulers in one run. Empty means weft-scheduler.
	Name string
	// Dir gets the log, which is appended to. Empty means the folder of Kubeconfig.
	Dir string
}

const schedulerGrace = 5 * time.Second

// StartScheduler starts weft-scheduler and returns when its /readyz is good: it has seen the whole cluster. Whether it
// leads is another question. ctx bounds the start only. A test may Kill it and start another with the same options.
func StartScheduler(ctx context.Context, o SchedulerOptions) (*Process, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("gave up after %v", startTimeout))
	defer cancel()
	if o.Kubeconfig == "" {
		return nil, errors.New("start weft-scheduler: no kubeconfig is given")
	}
	if o.Binary == "" {
		var err error
		if o.Binary, err = FindBinary("weft-scheduler"); err != nil {
			return nil, err
		}
	}
	if o.Name == "" {
		o.Name = "weft-scheduler"
	}
	if o.Dir == "" {
		o.Dir = filepath.Dir(o.Kubeconfig)
	}
	args := []string{"--v=2"}
	if o.Config != "" {
		args = append(args, "--config="+o.Config)
	} else {
		args = append(args, "--kubeconfig="+o.Kubeconfig)
	}
	return startServing(ctx, command{
		name: o.Name, path: o.Binary, args: append(args, o.Args...), dir: o.Dir, grace: schedulerGrace,
	}, o.Kubeconfig)
}

// startServing starts a program that serves health and metrics as the parts of Kubernetes do, on a free port, and returns when its
// /readyz is good. With the kubeconfig it asks about those who ask it.
func startServing(ctx context.Context, c command, kubeconfig string) (*Process, error) {
	port, err := reservePort()
	if err != nil {
		return nil, err
	}
	c.port = port
	c.args = append([]string{
		// In a cluster these two come from the pod; without them /metrics would be closed to everybody.
		"--authentication-kubeconfig=" + kubeconfig,
		"--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", port.number),
		"--permit-port-sharing=true",
	}, c.args...)
	p, err := startProcess(c)
	if err != nil {
		return nil, err
	}
	// Its certificate is made at start and kept in memory; the check carries no secret.
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
	}}
	defer client.CloseIdleConnections()
	err = p.waitReady(ctx, func(ctx context.Context) error {
		return get(ctx, client, "https://"+p.Address()+"/readyz")
	})
	if err != nil {
		p.Kill()
		return nil, err
	}
	return p, nil
}
