package compat

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apimachineryversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/util/compatibility"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/rest"
	"k8s.io/component-base/cli"
	basecompatibility "k8s.io/component-base/compatibility"
	"k8s.io/kubernetes/cmd/kube-scheduler/app"
	"k8s.io/kubernetes/pkg/features"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/names"
)

// The flags and gates of kube-scheduler are global to a process, so each test of the command runs one of its own: this
// test binary, with this variable set.
const asCommand = "WEFT_TEST_AS_SCHEDULER_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) == "" {
		os.Exit(m.Run())
	}
	cmd := app.NewSchedulerCommand()
	Adapt(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		registry := compatibility.DefaultComponentGlobalsRegistry
		state := commandState{Emulates: registry.EffectiveVersionFor(basecompatibility.DefaultKubeComponent).EmulationVersion().String()}
		for _, err := range registry.Validate() {
			state.Invalid = append(state.Invalid, err.Error())
		}
		state.DRA = utilfeature.DefaultFeatureGate.Enabled(features.DynamicResourceAllocation)
		state.TaintRules = utilfeature.DefaultFeatureGate.Enabled(features.DRADeviceTaintRules)
		state.Nominates = utilfeature.DefaultFeatureGate.Enabled(features.NominatedNodeNameForExpectation)
		state.Workload = utilfeature.DefaultFeatureGate.Enabled(features.GenericWorkload)
		state.Topology = utilfeature.DefaultFeatureGate.Enabled(features.TopologyAwareWorkloadScheduling)
		return json.NewEncoder(os.Stdout).Encode(state)
	}
	os.Exit(cli.Run(cmd))
}

// commandState is what the scheduler's command sees when it starts to run.
type commandState struct {
	Emulates                  string
	DRA, TaintRules, Workload bool
	Topology                  bool // TopologyAwareWorkloadScheduling
	Nominates                 bool // NominatedNodeNameForExpectation
	Invalid                   []string
}

// command prepares the scheduler's command in a process of its own.
func command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), asCommand+"=1")
	return cmd
}

// serverOf starts an HTTP server that answers as an API server does to /version and discovery.
func serverOf(t *testing.T, info apimachineryversion.Info, served Served) string {
	t.Helper()
	lists := map[string]*metav1.APIResourceList{}
	for r := range served {
		path := "/apis/" + r.GroupVersion().String()
		if r.Group == "" {
			path = "/api/" + r.Version
		}
		if lists[path] == nil {
			lists[path] = &metav1.APIResourceList{GroupVersion: r.GroupVersion().String()}
		}
		lists[path].APIResources = append(lists[path].APIResources, metav1.APIResource{Name: r.Resource, Kind: "Any"})
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body any = info
		if r.URL.Path != "/version" {
			list, found := lists[r.URL.Path]
			if !found {
				http.NotFound(w, r)
				return
			}
			body = list
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(body); err != nil {
			t.Errorf("write the answer to %s: %v", r.URL.Path, err)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func kubeconfigFor(t *testing.T, url string) string {
	t.Helper()
	return writeFile(t, "kubeconfig", fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q}}]
contexts: [{name: c, context: {cluster: c, user: ""}}]
current-context: c
`, url))
}

func configFor(t *testing.T, kubeconfig string) string {
	t.Helper()
	return writeFile(t, "scheduler.yaml", fmt.Sprintf(`apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
clientConnection: {kubeconfig: %q}
profiles: [{schedulerName: weft}]
`, kubeconfig))
}

// configOf writes a file with that in it.
func configOf(t *testing.T, text string) string {
	t.Helper()
	return writeFile(t, "scheduler.yaml", "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"+text+"\n")
}

func TestAdaptSetsTheFlagsOfTheCommand(t *testing.T) {
	url34 := serverOf(t, release(34), servedBy(34))
	url37 := serverOf(t, release(37), servedBy(37))
	url37WithoutDRA := serverOf(t, release(37), servedBy(37).Delete(append(resourceAPIs(), taintRules)...))
	url37WithoutPolicy := serverOf(t, release(37), servedBy(37).Delete(resource("policy", "v1", "poddisruptionbudgets")))
	url37WithPodGroups := serverOf(t, release(37), servedBy(37).Insert(podGroups))
	url36WithPodGroups := serverOf(t, release(36), servedBy(36).Insert(podGroups))
	nobody := "http://127.0.0.1:1"

	tests := map[string]struct {
		args []string
		want commandState
	}{
		"a server 1.34 in --kubeconfig": {
			args: []string{"--kubeconfig", kubeconfigFor(t, url34)},
			want: commandState{Emulates: "1.34", DRA: true},
		},
		"a server 1.37 needs no change": {
			args: []string{"--kubeconfig", kubeconfigFor(t, url37)},
			want: commandState{Emulates: "1.37", DRA: true, TaintRules: true},
		},
		"--config wins over --kubeconfig": {
			args: []string{"--kubeconfig", kubeconfigFor(t, nobody), "--config", configFor(t, kubeconfigFor(t, url34))},
			want: commandState{Emulates: "1.34", DRA: true},
		},
		"--master wins over the address in a file": {
			args: []string{"--master", url34, "--config", configFor(t, kubeconfigFor(t, nobody))},
			want: commandState{Emulates: "1.34", DRA: true},
		},
		"--master alone": {
			args: []string{"--master", url34},
			want: commandState{Emulates: "1.34", DRA: true},
		},
		"resource.k8s.io/v1 is off in 1.37": {
			args: []string{"--master", url37WithoutDRA},
			want: commandState{Emulates: "1.34"},
		},
		"an API is missing that a disabled plugin would watch": {
			args: []string{"--master", url37WithoutPolicy, "--config", writeProfiles(t, [][]string{{names.DefaultPreemption}})},
			want: commandState{Emulates: "1.37", DRA: true, TaintRules: true},
		},
		"the user's release stays": {
			args: []string{"--master", url34, "--emulated-version=1.37"},
			want: commandState{Emulates: "1.37", DRA: true},
		},
		"the user's release with its component stays": {
			args: []string{"--master", url34, "--emulated-version=kube=1.36"},
			want: commandState{Emulates: "1.36", DRA: true},
		},
		"gates are added to those of the user": {
			args: []string{"--master", url34, "--emulated-version=1.37", "--feature-gates=DRAAdminAccess=true"},
			want: commandState{Emulates: "1.37", DRA: true},
		},
		"gates are written with a component where the user does": {
			args: []string{"--master", url34, "--emulated-version=1.37", "--feature-gates=kube:DRAAdminAccess=true"},
			want: commandState{Emulates: "1.37", DRA: true},
		},
		"a gate of the user that is off already": {
			args: []string{"--master", url37, "--feature-gates", "DRADeviceTaintRules=false"},
			want: commandState{Emulates: "1.37", DRA: true},
		},
		"native PodGroups are served": {
			args: []string{"--master", url37WithPodGroups},
			want: commandState{Emulates: "1.37", DRA: true, TaintRules: true, Workload: true, Topology: true},
		},
		"native PodGroups are served, and gates are switched off too": {
			args: []string{"--master", url37WithPodGroups, "--feature-gates=kube:DRAAdminAccess=true"},
			want: commandState{Emulates: "1.37", DRA: true, TaintRules: true, Workload: true, Topology: true},
		},
		"native PodGroups are served, and the user leaves them alone": {
			args: []string{"--master", url37WithPodGroups, "--feature-gates=GenericWorkload=false"},
			want: commandState{Emulates: "1.37", DRA: true, TaintRules: true},
		},
		"native PodGroups are served to an older release": {
			args: []string{"--master", url37WithPodGroups, "--emulated-version=1.36"},
			want: commandState{Emulates: "1.36", DRA: true},
		},
		"native PodGroups are served by an older release": {
			args: []string{"--master", url36WithPodGroups},
			want: commandState{Emulates: "1.36", DRA: true},
		},
		"native PodGroups are served, and the file has plugin Gang as it was without them": {
			args: []string{"--master", url37WithPodGroups, "--config", configOf(t, `profiles: [{plugins: {multiPoint: {enabled: [{name: Gang}]}}}]`)},
			want: commandState{Emulates: "1.37", DRA: true, TaintRules: true},
		},
		"native PodGroups are served, and the file has plugin Gang in place of the in-tree generator": {
			args: []string{"--master", url37WithPodGroups, "--config", configOf(t,
				`profiles: [{plugins: {multiPoint: {enabled: [{name: Gang}]}, placementGenerate: {disabled: [{name: TopologyPlacementGenerator}]}}}]`)},
			want: commandState{Emulates: "1.37", DRA: true, TaintRules: true, Workload: true, Topology: true},
		},
		"native PodGroups are served, and the shipped file": {
			args: []string{"--master", url37WithPodGroups, "--config", "../../manifests/scheduler/config.yaml"},
			want: commandState{Emulates: "1.37", DRA: true, TaintRules: true, Workload: true, Topology: true},
		},
		"a gate of the user that is better off": {
			args: []string{"--master", url37, "--feature-gates", "NominatedNodeNameForExpectation=true"},
			want: commandState{Emulates: "1.37", DRA: true, TaintRules: true, Nominates: true},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cmd := command(t.Context(), tt.args...)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("the command fails: %v\n%s", err, &stderr)
			}
			var got commandState
			// PrintFlags and the like write to stderr; stdout is ours alone.
			if err := json.Unmarshal(out, &got); err != nil {
				t.Fatalf("read %q: %v", out, err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("the command runs with (-want +got):\n%s\n%s", diff, &stderr)
			}
		})
	}
}

func TestAdaptFailsWithAReason(t *testing.T) {
	tests := map[string]struct {
		args []string
		want []string
	}{
		"an API that is always needed is missing": {
			args: []string{"--master", serverOf(t, release(37), servedBy(37).Delete(podsAPI))},
			want: []string{"cannot run against the API server http://127.0.0.1:", "pods.v1 ", "--runtime-config"},
		},
		"the server is too old": {
			args: []string{"--master", serverOf(t, release(33), servedBy(33))},
			want: []string{"it is 1.33", "want 1.34 to 1.38"},
		},
		"there is no server to ask": {
			args: []string{},
			want: []string{"no API server to talk to", "--kubeconfig"},
		},
		"the file of --config does not exist": {
			args: []string{"--config", "/does/not/exist.yaml"},
			want: []string{"--config: open /does/not/exist.yaml"},
		},
		"the file of --config is something else": {
			args: []string{"--config", writeFile(t, "other.yaml", "apiVersion: v1\nkind: ConfigMap\n")},
			want: []string{"other.yaml", "ConfigMap"},
		},
		"the file of --config has an unknown field": {
			args: []string{"--config", writeFile(t, "typo.yaml", "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nclientConnections: {}\n")},
			want: []string{"typo.yaml", "clientConnections"},
		},
		"--emulated-version is no version": {
			args: []string{"--emulated-version=new"},
			want: []string{"--emulated-version=new", "want major.minor"},
		},
		"--feature-gates has no value": {
			args: []string{"--feature-gates=GenericWorkload"},
			want: []string{"--feature-gates=GenericWorkload", "want name=true or name=false"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			out, err := command(t.Context(), tt.args...).CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Fatalf("the command ends with %v, want exit code 1\n%s", err, out)
			}
			for _, want := range tt.want {
				if !strings.Contains(string(out), want) {
					t.Errorf("the output does not say %q:\n%s", want, out)
				}
			}
		})
	}
}

func TestAdaptLeavesAloneWhatNeedsNoServer(t *testing.T) {
	for _, args := range [][]string{{"--version"}, {"--help"}, {"--write-config-to", filepath.Join(t.TempDir(), "out.yaml")}} {
		out, err := command(t.Context(), args...).CombinedOutput()
		if err != nil {
			t.Errorf("%v fails without a server: %v\n%s", args, err, out)
		}
	}
}

func TestSIGTERMEndsTheWaitForAServer(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// A port on which nobody listens.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := command(ctx, "--master", "http://"+listener.Addr().String())
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var seen strings.Builder
	signalled := false
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		seen.WriteString(lines.Text() + "\n")
		if !signalled && strings.Contains(lines.Text(), "trying again") {
			signalled = true
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}
	}
	err = cmd.Wait()
	if ctx.Err() != nil {
		t.Fatalf("the command does not end:\n%s", &seen)
	}
	var exit *exec.ExitError
	if !signalled || !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(seen.String(), "stopped while waiting") {
		t.Errorf("the command ends with %v, want exit code 1 and the reason:\n%s", err, &seen)
	}
}

// Discovery of one API that fails is no proof that it is not served.
func TestAskServedDoesNotTakeAnErrorForAbsence(t *testing.T) {
	broken := resource("storage.k8s.io", "v1", "csinodes")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/version":
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(release(37))
		case "/apis/" + broken.GroupVersion().String():
			http.Error(w, "backend is down", http.StatusServiceUnavailable)
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	once, err := asker(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	_, err = once(t.Context())
	if err == nil || !strings.Contains(err.Error(), broken.GroupVersion().String()) {
		t.Errorf("error is %v, want one that names %s", err, broken.GroupVersion())
	}
}
