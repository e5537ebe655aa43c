package nodeagent

import (
	"context"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes/fake"

	"weft.sh/weft/pkg/gpu"
)

const testNode = "node-1"

// aNode is the Node of the tests, with labels of others.
func aNode() *v1.Node {
	return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: testNode, UID: "uid-1", Labels: map[string]string{"zone": "a"}}}
}

func labelsNow(t *testing.T, client *fake.Clientset) map[string]string {
	t.Helper()
	node, err := client.CoreV1().Nodes().Get(t.Context(), testNode, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return node.Labels
}

// stateOf is the state with these GPUs, all well.
func stateOf(cards ...card) *State { return derive(cards, hostWith(cards...), nil, nil, all) }

func TestLabels(t *testing.T) {
	c := cardOf("GPU-a", 0)
	c.MIGCapable = true
	c.Hardware = &gpu.Hardware{
		Architecture: "ada-lovelace", ComputeCapability: "8.9", DriverVersion: "580.95.05", CUDAVersion: "13.0", Clique: "0a-1.2", NUMANode: -1,
	}
	other := cardOf("GPU-b", 1)
	other.Product = "NVIDIA-A30"
	odd := cardOf("GPU-a", 0)
	odd.Product = "NVIDIA-H100 (beta)"
	for name, tc := range map[string]struct {
		state *State
		want  map[string]string
	}{
		"no GPU": {stateOf(), nil},
		"what is not known is not said": {stateOf(cardOf("GPU-a", 0)), map[string]string{
			"nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/gpu.count": "1", "nvidia.com/gpu.memory": "23034", "nvidia.com/mig.capable": "false",
		}},
		"a product that is no label's value is left out": {stateOf(odd), map[string]string{
			"nvidia.com/gpu.count": "1", "nvidia.com/gpu.memory": "23034", "nvidia.com/mig.capable": "false",
		}},
		"the first GPU stands for all": {stateOf(c, other), map[string]string{
			"nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/gpu.count": "2", "nvidia.com/gpu.memory": "23034", "nvidia.com/mig.capable": "true",
			"nvidia.com/gpu.family": "ada-lovelace", "nvidia.com/gpu.compute.major": "8", "nvidia.com/gpu.compute.minor": "9",
			"nvidia.com/cuda.driver-version.full": "580.95.05", "nvidia.com/cuda.runtime-version.full": "13.0", "nvidia.com/gpu.clique": "0a-1.2",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, labelsOf(tc.state)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestValueThatIsLeftOutIsAProblem(t *testing.T) {
	odd := cardOf("GPU-a", 0)
	odd.Product = "NVIDIA-H100 (beta)"
	want := `the node is not labelled with nvidia.com/gpu.product, because "NVIDIA-H100 (beta)" cannot be a label's value: `
	if got := stateOf(odd).Problems; len(got) != 1 || !strings.HasPrefix(got[0], want) {
		t.Errorf("problems %q, want one that begins with %q", got, want)
	}
	if got := stateOf(cardOf("GPU-a", 0)).Problems; len(got) > 0 {
		t.Errorf("problems of what is well: %q", got)
	}
	fractions := derive([]card{odd}, hostWith(odd), nil, nil, policy{mode: ModeFractions})
	if got := fractions.Problems; len(got) > 0 {
		t.Errorf("problems where no label is set: %q", got)
	}
}

func TestLabelsComeAndGoWithTheGPUs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(aNode())
		l := &labeller{client: client, node: aNode(), board: &board{}, relabelled: make(chan struct{}, 1), retry: time.Second}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); l.run(ctx) }()
		expect := func(when string, want map[string]string) {
			t.Helper()
			synctest.Wait()
			got := labelsNow(t, client)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", when, diff)
			}
		}
		mine := func(count string) map[string]string {
			return map[string]string{
				"zone": "a", "nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/gpu.count": count, "nvidia.com/gpu.memory": "23034", "nvidia.com/mig.capable": "false",
			}
		}
		expect("before the GPUs are known", map[string]string{"zone": "a"})
		l.board.post(stateOf(cardOf("GPU-a", 0)))
		expect("with one", mine("1"))
		l.board.post(stateOf(cardOf("GPU-a", 0), cardOf("GPU-b", 1)))
		expect("with two", mine("2"))

		// Somebody removes a label.
		node, err := client.CoreV1().Nodes().Get(ctx, testNode, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		delete(node.Labels, "nvidia.com/gpu.product")
		if _, err := client.CoreV1().Nodes().Update(ctx, node, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		poke(l.relabelled)
		expect("after one was removed", mine("2"))

		l.board.post(stateOf())
		expect("without a GPU", map[string]string{"zone": "a"})
		l.board.post(stateOf(cardOf("GPU-a", 0)))
		expect("with one again", mine("1"))
		cancel()
		<-done
		expect("what was set stays", mine("1"))
		if err := l.withdraw(t.Context()); err != nil {
			t.Fatal(err)
		}
		expect("until it is withdrawn", map[string]string{"zone": "a"})
	})
}

func TestLabelsOfOthersAreLeftToThem(t *testing.T) {
	client := fake.NewClientset(aNode())
	theirs := map[string]string{"nvidia.com/gpu.product": "theirs", "nvidia.com/gpu.count": "8"}
	_, err := client.CoreV1().Nodes().Apply(t.Context(), corev1.Node(testNode).WithLabels(theirs), metav1.ApplyOptions{FieldManager: "nfd-master"})
	if err != nil {
		t.Fatal(err)
	}
	l := &labeller{client: client, node: aNode()}
	if err := l.apply(t.Context(), map[string]string{"nvidia.com/gpu.product": "ours", "nvidia.com/gpu.memory": "1"}); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"zone": "a", "nvidia.com/gpu.memory": "1"}
	maps.Copy(want, theirs)
	if diff := cmp.Diff(want, labelsNow(t, client)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if err := l.withdraw(t.Context()); err != nil {
		t.Fatal(err)
	}
	delete(want, "nvidia.com/gpu.memory")
	if diff := cmp.Diff(want, labelsNow(t, client)); diff != "" {
		t.Errorf("withdrawn (-want +got):\n%s", diff)
	}
}
