package compat

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	apimachineryversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
)

// How long an API server that does not answer is waited for. Its longest start is minutes, on a control plane where
// everything starts at once; after that, exiting with the reason is more use than waiting, and the kubelet restarts.
const (
	attemptTimeout = 10 * time.Second
	firstPause     = time.Second
	longestPause   = 15 * time.Second
	giveUpAfter    = 5 * time.Minute
)

// ErrNoAnswer says that the API server could not be asked for its version and its APIs in giveUpAfter.
var ErrNoAnswer = errors.New("API server does not answer")

// answer is what an API server says about itself.
type answer struct {
	version apimachineryversion.Info
	served  Served
}

// ask gets the answer of the API server, and tries again until there is one, giveUpAfter has passed, or the context
// ends. Any failure is tried again: while an API server starts it refuses connections, then requests (its RBAC rules
// come last), and behind a load balancer it may answer for another.
func ask(ctx context.Context, server string, once func(context.Context) (answer, error)) (answer, error) {
	logger := klog.FromContext(ctx)
	start := time.Now()
	for attempt, pause := 1, firstPause; ; attempt, pause = attempt+1, min(2*pause, longestPause) {
		got, err := askOnce(ctx, once)
		if err == nil {
			return got, nil
		}
		if ctx.Err() != nil {
			return answer{}, fmt.Errorf("stopped while waiting for the API server %s: %w (last answer: %w)", server, context.Cause(ctx), err)
		}
		if left := giveUpAfter - time.Since(start); left < pause {
			return answer{}, fmt.Errorf("%w: %s, %d attempts in %s, check --kubeconfig, --master or clientConnection in --config: %w", ErrNoAnswer, server, attempt, time.Since(start).Round(time.Second), err)
		}
		logger.Info("The API server does not tell its version and APIs yet, trying again", "server", server, "attempt", attempt, "pause", pause, "givingUpAfter", giveUpAfter, "err", err)

		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return answer{}, fmt.Errorf("stopped while waiting for the API server %s: %w (last answer: %w)", server, context.Cause(ctx), err)
		}
	}
}

func askOnce(ctx context.Context, once func(context.Context) (answer, error)) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	return once(ctx)
}

// asker returns a function that asks the server once.
func asker(config *rest.Config) (func(context.Context) (answer, error), error) {
	config = rest.AddUserAgent(rest.CopyConfig(config), "scheduler-compat")
	// A dozen small requests, once: the limits of the scheduler's own client are for its steady load.
	config.QPS, config.Burst = 100, 100
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("client for discovery: %w", err)
	}
	return func(ctx context.Context) (answer, error) {
		info, err := client.ServerVersionWithContext(ctx)
		if err != nil {
			return answer{}, fmt.Errorf("get /version: %w", err)
		}
		served, err := askServed(ctx, client, groupVersions())
		if err != nil {
			return answer{}, err
		}
		return answer{version: *info, served: served}, nil
	}, nil
}

// askServed asks for each group and version alone, and not for everything at once: an aggregated API whose backend is
// down makes the whole of discovery fail.
func askServed(ctx context.Context, client discovery.DiscoveryInterfaceWithContext, wanted []schema.GroupVersion) (Served, error) {
	served := sets.New[schema.GroupVersionResource]()
	for _, groupVersion := range wanted {
		list, err := client.ServerResourcesForGroupVersionWithContext(ctx, groupVersion.String())
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("discover %s: %w", groupVersion, err)
		}
		for _, r := range list.APIResources {
			served.Insert(groupVersion.WithResource(r.Name))
		}
	}
	return served, nil
}

// groupVersions are those that a decision can depend on, each once, in the order of the tables.
func groupVersions() []schema.GroupVersion {
	var wanted []schema.GroupVersion
	seen := sets.New[schema.GroupVersion]()
	add := func(r schema.GroupVersionResource) {
		if groupVersion := r.GroupVersion(); !seen.Has(groupVersion) {
			seen.Insert(groupVersion)
			wanted = append(wanted, groupVersion)
		}
	}
	for _, w := range watches() {
		add(w.resource)
	}
	for _, mark := range releaseMarks() {
		add(mark.resource)
	}
	return wanted
}
