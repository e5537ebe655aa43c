//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"golang.org/x/sys/unix"

	weftcluster "weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/podspec"
)

func TestContainersGetWhatTheSchedulerChose(t *testing.T) {
	e := start(t)
	a := e.startAgent(dgx)
	e.allocatable(wholeDGX)
	devices := e.inventory()

	share := newPod("share", with(newContainer("main"), podspec.ResourceGPUPercent, 25))
	share.Spec.RestartPolicy = corev1.RestartPolicyAlways
	e.create(share)
	e.create(newPod("whole", with(newContainer("main"), podspec.ResourceGPU, 2)))
	e.create(newPod("mig", with(newContainer("main"), podspec.MIGResource("3g.20gb"), 1)))
	spread := newPod("spread", with(newContainer("main"), podspec.ResourceGPUPercent, 30))
	spread.Annotations = map[string]string{podspec.AnnotationGPUCount: "2"}
	e.create(spread)
	// Two kinds in one pod, an init container whose slots the others get after it, and a sidecar.
	several := newPod("several",
		with(newContainer("a"), podspec.ResourceGPUPercent, 10),
		with(newContainer("b"), podspec.MIGResource("1g.5gb"), 2),
	)
	always := corev1.ContainerRestartPolicyAlways
	sidecar := with(newContainer("sidecar"), podspec.ResourceGPUPercent, 5)
	sidecar.RestartPolicy = &always
	several.Spec.InitContainers = []corev1.Container{
		with(newContainer("init", "-once"), podspec.ResourceGPUPercent, 40), sidecar,
	}
	e.create(several)

	for _, name := range []string{"share", "whole", "mig", "spread", "several"} {
		p := e.running(name)
		for _, c := range p.Spec.Containers {
			e.gets(p, c.Name, devices)
		}
		for _, c := range p.Spec.InitContainers {
			e.gets(p, c.Name, devices)
		}
	}

	body, err := get("/allocations")
	e.must(err)
	var allocations struct {
		Allocations []struct{ Pod, Container string }
	}
	e.must(json.Unmarshal([]byte(body), &allocations))
	if len(allocations.Allocations) < 8 {
		t.Errorf("GET /allocations has %d, want the eight grants at least: %s", len(allocations.Allocations), body)
	}
	body, err = get("/metrics")
	e.must(err)
	if !strings.Contains(body, `pod="share"`) {
		t.Error("GET /metrics has no series of pod share")
	}

	// The container alone, the agent, the kubelet, and the power: it gets the same again each time.
	again := int32(0)
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"the container ends", func() { e.signal("share", "main", syscall.SIGTERM) }},
		{"the agent was killed", func() { a.kill(); a.start(); e.signal("share", "main", syscall.SIGTERM) }},
		{"the agent was stopped", func() { a.stop(); a.start(); e.signal("share", "main", syscall.SIGTERM) }},
		{"the kubelet was killed", func() {
			e.kubelet.kill()
			e.must(e.startKubelet(t.Context()))
			e.allocatable(wholeDGX)
			e.signal("share", "main", syscall.SIGTERM)
		}},
		{"the node lost its power", func() {
			a.kill()
			e.must(e.crash(t.Context()))
			e.must(e.startContainerd(t.Context()))
			a.launch() // as a pod of the node it would be among those that start again
			e.must(e.startKubelet(t.Context()))
		}},
	} {
		step.do()
		again++
		e.restarted("share", "main", again)
		e.gets(e.pod("share"), "main", devices)
		if t.Failed() {
			t.Fatalf("after %s", step.name)
		}
	}
	e.allocatable(wholeDGX)
}

// The pods of a burst are of all kinds, and more than the node has room for at once.
func burstPod(i int, r *rand.Rand) *corev1.Pod {
	c := newContainer("main")
	switch r.IntN(10) {
	case 0, 1:
		c = with(c, podspec.ResourceGPU, int64(1+r.IntN(2)))
	case 2:
		c = with(c, podspec.MIGResource("1g.5gb"), int64(1+r.IntN(2)))
	case 3:
		c = with(c, podspec.MIGResource("2g.10gb"), 1)
	case 4:
		c = with(c, podspec.MIGResource("3g.20gb"), 1)
	default:
		c = with(c, podspec.ResourceGPUPercent, int64(10*(1+r.IntN(6))))
	}
	return newPod(fmt.Sprintf("burst-%02d", i), c)
}

func TestBurst(t *testing.T) {
	const total, kills, stay, withdraw = 48, 5, 7, 8
	e := start(t)
	a := e.startAgent(dgx)
	e.allocatable(wholeDGX)
	devices := e.inventory()
	r := rand.New(rand.NewPCG(1, 2))

	var created sync.WaitGroup
	for i := range total {
		p := burstPod(i, r)
		e.pods[p.Name] = p
		created.Go(func() {
			out, err := e.client.CoreV1().Pods(p.Namespace).Create(t.Context(), p, metav1.CreateOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			*p = *out
		})
	}
	created.Wait()
	t.Cleanup(func() {
		var names []string
		for name := range e.pods {
			names = append(names, name)
		}
		e.remove(names...)
	})

	checked, seen, again, withdrawn := map[string]bool{}, 0, 0, 0
	remove := func(p *corev1.Pod) {
		grace := int64(r.IntN(2))
		err := e.client.CoreV1().Pods(p.Namespace).Delete(t.Context(), p.Name, metav1.DeleteOptions{GracePeriodSeconds: &grace})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
	}
	killed := 0
	e.eventually(func() string {
		list, err := e.client.CoreV1().Pods(metav1.NamespaceDefault).List(t.Context(), metav1.ListOptions{})
		e.must(err)
		e.audit(devices)
		for i := range list.Items {
			p := &list.Items[i]
			switch {
			case p.DeletionTimestamp != nil || checked[p.Name]:
			case p.Status.Phase == corev1.PodFailed:
				// The kubelet admitted it while there was no agent, which fails a pod for good: its owner makes another one.
				if p.Status.Reason != "UnexpectedAdmissionError" {
					t.Fatalf("pod %s failed: %s", p.Name, e.story(p.Name))
				}
				again++
				remove(p)
				e.poll(t.Context(), func() string {
					if _, err := e.client.CoreV1().Pods(p.Namespace).Get(t.Context(), p.Name, metav1.GetOptions{}); apierrors.IsNotFound(err) {
						return ""
					}
					return "still there"
				})
				e.create(newPod(p.Name, corev1.Container{
					Name: "main", Image: workloadImage, Resources: corev1.ResourceRequirements{Limits: p.Spec.Containers[0].Resources.Limits},
				}))
			case withdrawn < withdraw && p.Spec.NodeName != "" && p.Status.Phase == corev1.PodPending && r.IntN(10) == 0:
				withdrawn++ // somewhere between its binding and its start
				checked[p.Name] = true
				remove(p)
			case p.Status.Phase == corev1.PodRunning && p.Status.ContainerStatuses[0].State.Running != nil:
				e.gets(p, "main", devices)
				checked[p.Name] = true
				seen++
				remove(p)
			}
		}
		if killed < kills && len(checked) >= (killed+1)*total/(kills+1) {
			killed++
			a.kill()
			a.start()
		}
		if len(checked) < total {
			return fmt.Sprintf("%d of %d pods have run, %d were deleted before", seen, total, withdrawn)
		}
		return ""
	})
	t.Logf("%d pods have run, %d were deleted before they did, %d had to be created again, the agent was killed %d times", seen, withdrawn, again, killed)
	if killed != kills {
		t.Errorf("the agent was killed %d times, want %d", killed, kills)
	}

	// What is left is what the pods that are left hold: in the kubelet's checkpoint, which it writes when it next allocates, in the
	// agent's, and in the folder of CDI specifications.
	for i := range stay {
		name := fmt.Sprintf("stay-%d", i)
		e.create(newPod(name, with(newContainer("main"), podspec.ResourceGPUPercent, int64(10*(i+1)))))
		e.gets(e.running(name), "main", devices)
	}
	e.eventually(func() string {
		list, err := e.client.CoreV1().Pods(metav1.NamespaceDefault).List(t.Context(), metav1.ListOptions{})
		e.must(err)
		var live, held []string
		for _, p := range list.Items {
			live = append(live, string(p.UID))
		}
		entries, err := checkpoint()
		e.must(err)
		for _, entry := range entries {
			held = append(held, entry.PodUID)
		}
		slices.Sort(live)
		slices.Sort(held)
		inBook, specs := e.records()
		if len(live) != stay || !slices.Equal(live, held) || inBook != len(live) || specs != len(live) {
			return fmt.Sprintf("%d pods are left, want %d; the kubelet's checkpoint has %d, the agent's %d, and there are %d CDI specifications",
				len(live), stay, len(held), inBook, specs)
		}
		return ""
	})
}

// audit fails the test when running containers hold more of a GPU than there is. It believes nobody but the containers' own environment.
func (e *env) audit(devices []gpu.Device) {
	e.t.Helper()
	first := containerGPUs()
	var holding []weftcluster.Pod
	// What is there twice was there at one time.
	for pid, gpus := range containerGPUs() {
		if first[pid] != gpus {
			continue
		}
		a, err := gpu.ParseAssignment("main=" + gpus)
		e.must(err)
		holding = append(holding, weftcluster.NewPod(pid, pid, a))
	}
	n := weftcluster.NewNode(nodeName, weftcluster.NewInventory(weftcluster.SourceSlices, devices), holding)
	for _, c := range n.Conflicts() {
		e.t.Error(c)
	}
}

// containerGPUs is the WEFT_GPUS of every process that has one, by its number.
func containerGPUs() map[string]string {
	out := map[string]string{}
	files, _ := filepath.Glob("/proc/[0-9]*/environ") // the pattern is well formed
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		for v := range strings.SplitSeq(string(data), "\x00") {
			if gpus, ok := strings.CutPrefix(v, "WEFT_GPUS="); ok {
				out[filepath.Base(filepath.Dir(file))] = gpus
			}
		}
	}
	return out
}

func TestNobodyGetsWhatTheSchedulerDidNotChoose(t *testing.T) {
	e := start(t)
	e.startAgent(dgx)
	e.allocatable(wholeDGX)
	devices := e.inventory()

	// Past the scheduler: no assignment.
	direct := newPod("direct", with(newContainer("main"), podspec.ResourceGPU, 1))
	direct.Spec.NodeName = nodeName
	e.create(direct)
	e.refused("direct", "the scheduler weft has assigned no GPU to it")

	// With an assignment of one's own: the admission policy is in the way.
	spoofed := newPod("spoofed", with(newContainer("main"), podspec.ResourceGPU, 1))
	spoofed.Annotations = map[string]string{podspec.AnnotationGPUs: "main=" + string(devices[0].ID)}
	if _, err := e.client.CoreV1().Pods(spoofed.Namespace).Create(t.Context(), spoofed, metav1.CreateOptions{}); err == nil {
		e.pods[spoofed.Name] = spoofed
		t.Error("a pod with an assignment of its own was created")
		e.remove(spoofed.Name)
	}

	// Whoever gets past the policy too, as only the scheduler does, gets no GPU of another node, and none that somebody holds.
	cfg := e.cp.AdminConfig()
	cfg.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:weft-system:weft-scheduler", Groups: []string{"system:masters"}}
	scheduler, err := kubernetes.NewForConfig(cfg)
	e.must(err)
	forge := func(name, id string) {
		p := newPod(name, with(newContainer("main"), podspec.ResourceGPU, 1))
		p.Annotations = map[string]string{podspec.AnnotationGPUs: "main=" + id}
		p.Spec.NodeName = nodeName
		created, err := scheduler.CoreV1().Pods(p.Namespace).Create(t.Context(), p, metav1.CreateOptions{})
		e.must(err)
		e.pods[name] = created
		t.Cleanup(func() {
			if _, ok := e.pods[name]; ok {
				e.remove(name)
			}
		})
	}
	forge("elsewhere", "GPU-00000000-0000-0000-0000-000000000000")
	e.refused("elsewhere", "its assignment names a GPU that is not on this node")
	e.remove("elsewhere", "direct")

	e.create(newPod("holder", with(newContainer("main"), podspec.ResourceGPU, 1)))
	held := e.running("holder")
	a, err := gpu.ParseAssignment(held.Annotations[podspec.AnnotationGPUs])
	e.must(err)
	forge("thief", string(a.Containers[0].Grants[0].GPU))
	e.refused("thief", "its GPU cannot be given now")
	// Once nobody holds it any more it goes through.
	e.remove("holder")
	e.gets(e.running("thief"), "main", devices)

	// Without the policy the scheduler's word stands: it does not bind what comes with an assignment.
	const policy = "gpu-assignment.weft.sh"
	binding, err := e.client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Get(t.Context(), policy, metav1.GetOptions{})
	e.must(err)
	e.must(e.client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Delete(t.Context(), policy, metav1.DeleteOptions{}))
	t.Cleanup(func() {
		binding.ObjectMeta = metav1.ObjectMeta{Name: policy}
		_, err := e.client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().
			Create(context.WithoutCancel(t.Context()), binding, metav1.CreateOptions{})
		e.must(err)
	})
	e.eventually(func() string {
		created, err := e.client.CoreV1().Pods(spoofed.Namespace).Create(t.Context(), spoofed, metav1.CreateOptions{})
		if err != nil {
			return err.Error()
		}
		e.pods[spoofed.Name] = created
		return ""
	})
	t.Cleanup(func() { e.remove(spoofed.Name) })
	e.eventually(func() string {
		for _, c := range e.pod("spoofed").Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
				return ""
			}
		}
		return "the scheduler has not refused the spoofed pod"
	}, "spoofed")
	if p := e.pod("spoofed"); p.Spec.NodeName != "" {
		t.Errorf("the spoofed pod is bound to %s", p.Spec.NodeName)
	}
}

func TestFullCDIFolder(t *testing.T) {
	e := start(t)
	e.must(os.MkdirAll(cdiDir, 0o755))
	e.must(unix.Mount("tmpfs", cdiDir, "tmpfs", 0, "size=64k,mode=755"))
	// containerd watches the folder that was there when it started.
	watchAnew := func() {
		e.containerd.kill()
		e.must(e.startContainerd(context.WithoutCancel(t.Context())))
	}
	watchAnew()
	t.Cleanup(func() {
		e.must(unix.Unmount(cdiDir, unix.MNT_DETACH))
		watchAnew()
	})
	e.startAgent(dgx)
	e.allocatable(wholeDGX)
	filler := cdiDir + "/filler"
	f, err := os.Create(filler)
	e.must(err)
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	f.Close()
	e.create(newPod("full", with(newContainer("main"), podspec.ResourceGPU, 1)))
	e.refused("full", "no space left on device")
	e.must(os.Remove(filler))
	e.gets(e.running("full"), "main", e.inventory())
}
