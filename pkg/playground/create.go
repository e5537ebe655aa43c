package playground

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/podgroup"
)

// createWorkers bounds the requests in flight: enough that the API server never waits for this side.
const createWorkers = 32

// typedClient is a client that speaks protobuf, which costs both ends a fraction of JSON.
func typedClient(cfg *rest.Config) (*kubernetes.Clientset, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.ContentType = runtime.ContentTypeProtobuf
	cfg.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	return kubernetes.NewForConfig(cfg)
}

// inParallel calls do for 0 to n-1, in this order up to the concurrency, until one fails; done is called after each with
// the number that are.
func inParallel(ctx context.Context, n, workers int, do func(ctx context.Context, i int) error, done func(int)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next, finished atomic.Int64
	var wg sync.WaitGroup
	for range min(n, workers) {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n || ctx.Err() != nil {
					return
				}
				if err := do(ctx, i); err != nil {
					cancel(err)
					return
				}
				done(int(finished.Add(1)))
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// CreateNodes creates the nodes and publishes their inventory.
func CreateNodes(ctx context.Context, cfg *rest.Config, nodes []Node, progress *Progress) error {
	for _, n := range nodes {
		if err := n.validate(); err != nil {
			return err
		}
	}
	client, err := typedClient(cfg)
	if err != nil {
		return err
	}
	begin := time.Now()
	create := func(ctx context.Context, i int) error {
		node, err := client.CoreV1().Nodes().Create(ctx, nodes[i].Object(), metav1.CreateOptions{FieldManager: fieldManager})
		if err != nil {
			return fmt.Errorf("create node %s: %w", nodes[i].Name, err)
		}
		for _, s := range nodes[i].Slices(node) {
			if _, err := client.ResourceV1().ResourceSlices().Create(ctx, s, metav1.CreateOptions{FieldManager: fieldManager}); err != nil {
				return fmt.Errorf("publish the GPUs of node %s: %w", nodes[i].Name, err)
			}
		}
		return nil
	}
	err = inParallel(ctx, len(nodes), createWorkers, create, func(n int) {
		progress.Show(n, len(nodes), "%d of %d nodes created", n, len(nodes))
	})
	if err != nil {
		return err
	}
	progress.Printf("%d nodes with their inventory created in %.1fs", len(nodes), time.Since(begin).Seconds())
	return nil
}

// WaitNodesReady waits until KWOK has made all nodes of the cluster Ready, at least count of them.
func WaitNodesReady(ctx context.Context, cfg *rest.Config, count int, progress *Progress) error {
	client, err := typedClient(cfg)
	if err != nil {
		return err
	}
	begin, sofar := time.Now(), 0
	err = wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, startTimeout, true, func(ctx context.Context) (bool, error) {
		// Version 0 is read from the API server's memory.
		nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
		if err != nil {
			return false, err
		}
		sofar = 0
		for i := range nodes.Items {
			if ready(&nodes.Items[i]) {
				sofar++
			}
		}
		progress.Show(sofar, count, "%d of %d nodes ready", sofar, count)
		return sofar >= count && sofar == len(nodes.Items), nil
	})
	if err != nil {
		return fmt.Errorf("only %d of %d nodes became ready; kwok.log may say why, which --dir keeps: %w", sofar, count, errors.Join(err, context.Cause(ctx)))
	}
	progress.Printf("%d nodes ready after %.1fs more", sofar, time.Since(begin).Seconds())
	return nil
}

// CreateQueues creates the Queues.
func CreateQueues(ctx context.Context, cfg *rest.Config, queues []Queue) error {
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return err
	}
	for _, q := range queues {
		if _, err := client.Resource(v1alpha1.Queues).Create(ctx, q.Object(), metav1.CreateOptions{FieldManager: fieldManager}); err != nil {
			return fmt.Errorf("create Queue %s: %w", q.Name, err)
		}
	}
	return nil
}

// CreateGroups creates the PodGroups.
func CreateGroups(ctx context.Context, cfg *rest.Config, groups []Group) error {
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return err
	}
	for _, g := range groups {
		_, err := client.Resource(podgroup.Resource).Namespace(corev1.NamespaceDefault).
			Create(ctx, g.Object(), metav1.CreateOptions{FieldManager: fieldManager})
		if err != nil {
			return fmt.Errorf("create PodGroup %s: %w", g.Name, err)
		}
	}
	return nil
}

// CreatePods creates the pods, by and large in their order; with inOrder exactly in it, one after the other.
func CreatePods(ctx context.Context, cfg *rest.Config, pods []Pod, inOrder bool, done func(int)) error {
	client, err := typedClient(cfg)
	if err != nil {
		return err
	}
	workers := createWorkers
	if inOrder {
		workers = 1
	}
	return inParallel(ctx, len(pods), workers, func(ctx context.Context, i int) error {
		_, err := client.CoreV1().Pods(corev1.NamespaceDefault).Create(ctx, pods[i].Object(), metav1.CreateOptions{FieldManager: fieldManager})
		if err != nil {
			return fmt.Errorf("create pod %s: %w", pods[i].Name, err)
		}
		return nil
	}, done)
}
