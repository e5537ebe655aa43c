// Package compat runs the built weft-scheduler against real API servers of every supported release and checks that it
// schedules. The API servers are built by hack/compat.sh, which also runs these tests; without them they skip.
package compat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"

	"weft.sh/weft/manifests"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/playground"
	"weft.sh/weft/pkg/podspec"
)

const (
	// envAPIServers names a folder with <version>/kube-apiserver, where version is v1.34.4 or v1.37.0-unversioned.
	envAPIServers = "WEFT_COMPAT_APISERVERS"
	// envScheduler names the weft-scheduler binary.
	envScheduler = "WEFT_COMPAT_SCHEDULER"

	namespace = "default"
	// Starting takes seconds, but the machine may be building something else.
	patience = 2 * time.Minute
)

// ours stands for the API server of the libraries that the scheduler is built on, in weft-playground.
const ours = ""

func TestSchedulesOn(t *testing.T) {
	binaries := findBinaries(t)
	tests := map[string]struct {
		// minor chooses the API server by its folder's prefix; ours: the one in weft-playground.
		server        string
		serverArgs    []string
		schedulerArgs []string
		// labelsOnly: the server has no ResourceSlices, so every node has its GPUs in NVIDIA's labels.
		labelsOnly bool
		// wantLog are patterns that the scheduler's log holds.
		wantLog []string
	}{
		"v1.34": {server: "v1.34.", wantLog: []string{`"Adapting to the API server".* release="1\.34".* emulatedVersion="1\.34" featureGatesOff=null`}},
		"v1.35": {server: "v1.35.", wantLog: []string{`release="1\.35".* emulatedVersion="1\.35" featureGatesOff=\["NominatedNodeNameForExpectation"\]`}},
		"v1.36": {server: "v1.36.", wantLog: []string{`release="1\.36".* emulatedVersion="1\.36" featureGatesOff=\["NominatedNodeNameForExpectation"\]`}},
		"our own release": {
			server:  ours,
			wantLog: []string{`release="1\.37".* emulatedVersion="1\.37" featureGatesOff=\["NominatedNodeNameForExpectation"\]`},
		},
		"our own release, built without its version": {
			server:  "-unversioned",
			wantLog: []string{`release="1\.37".* emulatedVersion="1\.37" featureGatesOff=\["NominatedNodeNameForExpectation"\]`},
		},
		"our own release, emulating an older one": {
			server:     ours,
			serverArgs: []string{"--emulated-version=1.36"},
			wantLog:    []string{`release="1\.36".* emulatedVersion="1\.36" featureGatesOff=\["NominatedNodeNameForExpectation"\]`},
		},
		"our own release without resource.k8s.io/v1": {
			server:     ours,
			serverArgs: []string{"--runtime-config=resource.k8s.io/v1=false"},
			labelsOnly: true,
			wantLog: []string{
				`release="1\.37".* emulatedVersion="1\.34" featureGatesOff=.*DynamicResourceAllocation`,
				`Warning: .*resourceclaims\.v1\.resource\.k8s\.io`,
			},
		},
		"our own release without one resource": {
			server:     ours,
			serverArgs: []string{"--runtime-config=resource.k8s.io/v1/devicetaintrules=false"},
			wantLog:    []string{`emulatedVersion="1\.37" featureGatesOff=\["DRADeviceTaintRules","NominatedNodeNameForExpectation"\]`},
		},
		"our own release with native PodGroups": {
			server:     ours,
			serverArgs: []string{"--runtime-config=scheduling.k8s.io/v1beta1=true", "--feature-gates=GenericWorkload=true"},
			wantLog:    []string{`emulatedVersion="1\.37" .* featureGatesOn=\["GenericWorkload","TopologyAwareWorkloadScheduling"\]`},
		},
		"the oldest release, where the user insists on the newest": {
			server:        "v1.34.",
			schedulerArgs: []string{"--emulated-version=1.37"},
			wantLog:       []string{`emulatedVersion="1\.37" featureGatesOff=\["DRADeviceTaintRules","NominatedNodeNameForExpectation"\]`},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cluster := startCluster(t, binaries.apiServer(t, tt.server), tt.serverArgs)
			cluster.install(t)
			scheduler := cluster.startScheduler(t, binaries.scheduler, tt.schedulerArgs)

			cluster.schedules(t, scheduler, tt.labelsOnly)

			log := readLog(t, scheduler.LogPath())
			t.Log(grep(log, `adapt\.go`))
			for _, want := range tt.wantLog {
				if !regexp.MustCompile(want).MatchString(log) {
					t.Errorf("the scheduler's log has no line like %s:\n%s", want, grep(log, `adapt\.go`))
				}
			}
			// What an informer without its API says, and one without the right.
			if bad := grep(log, `could not find the requested resource|is forbidden`); bad != "" {
				t.Errorf("the scheduler asks for what is not there or not allowed:\n%s", bad)
			}
		})
	}
}

// Without an API that nothing can replace, the scheduler ends and says so.
func TestRefuses(t *testing.T) {
	binaries := findBinaries(t)
	tests := map[string]struct {
		serverArgs    []string
		schedulerArgs []string
		want          []string
	}{
		"our own release without policy/v1": {
			serverArgs: []string{"--runtime-config=policy/v1=false"},
			want:       []string{`poddisruptionbudgets\.v1\.policy`, `disable DefaultPreemption`},
		},
		"native PodGroups where they are not served": {
			schedulerArgs: []string{"--feature-gates=GenericWorkload=true"},
			want:          []string{`podgroups\.v1beta1\.scheduling\.k8s\.io`, `--feature-gates=GenericWorkload=true asks for it`},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cluster := startCluster(t, ours, tt.serverArgs)
			_, err := cluster.tryScheduler(t, binaries.scheduler, tt.schedulerArgs)
			var exit *playground.ExitError
			if !errors.As(err, &exit) {
				t.Fatalf("the scheduler does not end by itself: %v", err)
			}
			if exit.State != "exit status 1" {
				t.Errorf("the scheduler ends with %s, want exit status 1", exit.State)
			}
			log := readLog(t, exit.LogPath)
			for _, want := range tt.want {
				if !regexp.MustCompile(want).MatchString(log) {
					t.Errorf("the scheduler's log has no line like %s:\n%s", want, log)
				}
			}
		})
	}
}

// binaries are what hack/compat.sh built.
type binaries struct {
	scheduler  string
	apiServers []string
}

func findBinaries(t *testing.T) binaries {
	t.Helper()
	folder, scheduler := os.Getenv(envAPIServers), os.Getenv(envScheduler)
	if folder == "" || scheduler == "" {
		t.Skipf("needs API servers of several releases, in $%s, and weft-scheduler, in $%s: run make compat", envAPIServers, envScheduler)
	}
	apiServers, err := filepath.Glob(filepath.Join(folder, "*", "kube-apiserver"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(apiServers)
	return binaries{scheduler: scheduler, apiServers: apiServers}
}

// apiServer is the newest that was built of a kind. Looking for one that is missing fails the test: nobody would notice
// a release that is skipped.
func (b binaries) apiServer(t *testing.T, kind string) string {
	t.Helper()
	if kind == ours {
		return ours
	}
	for _, path := range slices.Backward(b.apiServers) {
		if strings.Contains(filepath.Base(filepath.Dir(path)), kind) {
			return path
		}
	}
	t.Fatalf("no API server %q among %q: run hack/compat.sh build", kind, b.apiServers)
	return ""
}

type cluster struct {
	*playground.ControlPlane
	client kubernetes.Interface
	// manifests are what is shipped, rendered.
	manifests []*unstructured.Unstructured
	// kubeconfig is the scheduler's, and config its configuration; both are files.
	kubeconfig, config string
}

// startCluster starts etcd and an API server, and writes the shipped configuration for the scheduler.
func startCluster(t *testing.T, apiServer string, args []string) *cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	controlPlane, err := playground.StartControlPlane(ctx, playground.ControlPlaneOptions{
		Dir: filepath.Join(t.TempDir(), "cluster"), APIServer: apiServer, APIServerArgs: args,
	})
	if err != nil {
		t.Fatalf("start the control plane: %v", err)
	}
	t.Cleanup(func() {
		if err := controlPlane.Stop(); err != nil {
			t.Errorf("stop the control plane: %v", err)
		}
	})
	client, err := kubernetes.NewForConfig(controlPlane.AdminConfig())
	if err != nil {
		t.Fatal(err)
	}
	objects, err := playground.Render(manifests.FS, ".")
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig, err := controlPlane.Kubeconfig(playground.SchedulerUser)
	if err != nil {
		t.Fatal(err)
	}
	config, err := playground.SchedulerConfig(objects, kubeconfig, false)
	if err != nil {
		t.Fatal(err)
	}
	configFile := filepath.Join(controlPlane.Dir(), "scheduler.yaml")
	if err := os.WriteFile(configFile, config, 0o600); err != nil {
		t.Fatal(err)
	}
	return &cluster{ControlPlane: controlPlane, client: client, manifests: objects, kubeconfig: kubeconfig, config: configFile}
}

// install applies what is shipped: account, rights, admission policies. Every release must accept it. What one does not
// accept is not the end: the scheduler is worth a look even so.
func (c *cluster) install(t *testing.T) {
	t.Helper()
	for _, object := range c.manifests {
		if err := playground.Apply(t.Context(), c.AdminConfig(), []*unstructured.Unstructured{object}); err != nil {
			t.Errorf("the manifests are not accepted: %v", err)
		}
	}
}

// startScheduler starts the scheduler with the shipped configuration and the rights of its account, until the test ends.
func (c *cluster) startScheduler(t *testing.T, binary string, args []string) *playground.Process {
	t.Helper()
	process, err := c.tryScheduler(t, binary, args)
	if err != nil {
		t.Fatalf("start the scheduler: %v", err)
	}
	t.Cleanup(process.Stop)
	return process
}

// tryScheduler returns once the scheduler is ready, which it is only when every informer has listed its objects.
func (c *cluster) tryScheduler(t *testing.T, binary string, args []string) (*playground.Process, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return playground.StartScheduler(ctx, playground.SchedulerOptions{Binary: binary, Kubeconfig: c.kubeconfig, Config: c.config, Args: args})
}

// schedules makes two nodes of eight GPUs and five pods of four: four are bound, two on each node, each with GPUs that no
// other has, and one is not.
func (c *cluster) schedules(t *testing.T, scheduler *playground.Process, labelsOnly bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	nodes, err := playground.ParseNodes("h100=2")
	if err != nil {
		t.Fatal(err)
	}
	nodes[0].LabelsOnly, nodes[1].LabelsOnly = labelsOnly, true
	if err := playground.CreateNodes(ctx, c.AdminConfig(), nodes, playground.NewProgress(io.Discard)); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if _, err := c.client.CoreV1().Pods(namespace).Create(ctx, gpuPod(fmt.Sprintf("pod-%d", i), 4), metav1.CreateOptions{}); err != nil {
			t.Fatalf("create a pod: %v", err)
		}
	}

	var pods *corev1.PodList
	err = wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		select {
		case <-scheduler.Done():
			return false, scheduler.Wait()
		default:
		}
		var err error
		if pods, err = c.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{}); err != nil {
			return false, err
		}
		bound, refused := 0, 0
		for _, pod := range pods.Items {
			switch {
			case pod.Spec.NodeName != "":
				bound++
			case unschedulable(pod):
				refused++
			}
		}
		return bound == 4 && refused == 1, nil
	})
	if err != nil {
		t.Fatalf("four pods of five are not bound: %v\n%s\n%s", err, describe(pods), readLog(t, scheduler.LogPath()))
	}

	holders := map[string]string{}
	perNode := map[string]int{}
	for _, pod := range pods.Items {
		if pod.Spec.NodeName == "" {
			continue
		}
		perNode[pod.Spec.NodeName]++
		for _, id := range assigned(t, &pod) {
			where := fmt.Sprintf("GPU %s of node %s", id, pod.Spec.NodeName)
			if other, taken := holders[where]; taken {
				t.Errorf("%s is given to %s and to %s", where, other, pod.Name)
			}
			holders[where] = pod.Name
		}
	}
	if len(holders) != 16 || perNode[nodes[0].Name] != 2 || perNode[nodes[1].Name] != 2 {
		t.Errorf("%d GPUs are given, pods per node are %v; want all 16, and two on each", len(holders), perNode)
	}
}

// assigned is the GPUs that the scheduler wrote into the pod.
func assigned(t *testing.T, pod *corev1.Pod) []gpu.ID {
	t.Helper()
	request, err := podspec.Request(pod)
	if err != nil {
		t.Fatal(err)
	}
	assignment, err := podspec.Assignment(pod, request)
	if err != nil {
		t.Errorf("pod %s: %v", pod.Name, err)
	}
	var ids []gpu.ID
	for _, use := range assignment.Uses() {
		ids = append(ids, use.GPU)
	}
	return ids
}

func unschedulable(pod corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(condition corev1.PodCondition) bool {
		return condition.Type == corev1.PodScheduled && condition.Status == corev1.ConditionFalse && condition.Reason == corev1.PodReasonUnschedulable
	})
}

func describe(pods *corev1.PodList) string {
	if pods == nil {
		return "no pods"
	}
	var text strings.Builder
	for _, pod := range pods.Items {
		fmt.Fprintf(&text, "%s node=%q %v\n", pod.Name, pod.Spec.NodeName, pod.Status.Conditions)
	}
	return text.String()
}

func gpuPod(name string, gpus int64) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			SchedulerName: "weft",
			Containers: []corev1.Container{{
				Name: "main", Image: "example.com/none",
				Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"nvidia.com/gpu": *resource.NewQuantity(gpus, resource.DecimalSI)}},
			}},
		},
	}
}

func readLog(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// grep returns the lines that match.
func grep(text, pattern string) string {
	expression := regexp.MustCompile(pattern)
	var found []string
	for line := range strings.Lines(text) {
		if expression.MatchString(line) {
			found = append(found, line)
		}
	}
	return strings.Join(found, "")
}
