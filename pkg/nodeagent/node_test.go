package nodeagent

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestTheNodeIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		found := make(chan *v1.Node)
		go func() {
			node, err := awaitNode(t.Context(), client, testNode, time.Second)
			if err != nil {
				t.Error(err)
			}
			found <- node
		}()
		synctest.Wait()
		if _, err := client.CoreV1().Nodes().Create(t.Context(), aNode(), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if node := <-found; node.UID != "uid-1" {
			t.Errorf("found %v", node)
		}
	})
}

func TestNodeWatch(t *testing.T) {
	update := func(change func(*v1.Node)) func(context.Context, *fake.Clientset) error {
		return func(ctx context.Context, client *fake.Clientset) error {
			node := aNode()
			change(node)
			_, err := client.CoreV1().Nodes().Update(ctx, node, metav1.UpdateOptions{})
			return err
		}
	}
	for name, tc := range map[string]struct {
		do         func(context.Context, *fake.Clientset) error
		want       error
		relabelled int
	}{
		"other labels":         {update(func(n *v1.Node) { n.Labels["zone"] = "b" }), nil, 1},
		"something else":       {update(func(n *v1.Node) { n.Spec.Unschedulable = true }), nil, 0},
		"another of that name": {update(func(n *v1.Node) { n.UID = "uid-2" }), errNodeReplaced, 0},
		"it is deleted": {func(ctx context.Context, client *fake.Clientset) error {
			return client.CoreV1().Nodes().Delete(ctx, testNode, metav1.DeleteOptions{})
		}, errNodeReplaced, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := fake.NewClientset(aNode())
				relabelled := 0
				w := &nodeWatch{client: client, node: aNode(), relabelled: func() { relabelled++ }}
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- w.run(ctx) }()
				synctest.Wait()
				if err := tc.do(ctx, client); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				cancel()
				if err := <-ended; !errors.Is(err, tc.want) {
					t.Errorf("error %v, want %v", err, tc.want)
				}
				if relabelled != tc.relabelled {
					t.Errorf("%d times relabelled, want %d", relabelled, tc.relabelled)
				}
			})
		})
	}
}
