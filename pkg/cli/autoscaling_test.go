package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"

	"weft.sh/weft/pkg/podspec"
)

// exported are the metrics in the sources that define them, with the source's text.
func exported(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for file, pattern := range map[string]string{
		"../steward/metrics.go":    `NewDesc\("(weft_[a-z_]+)"`,
		"../metering/collector.go": `desc\("([a-z_]+)"`,
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(pattern).FindAllStringSubmatch(string(text), -1)
		if len(found) < 5 {
			t.Fatalf("%s defines %d metrics", file, len(found))
		}
		for _, m := range found {
			name := m[1]
			if !strings.HasPrefix(name, "weft_") {
				name = "weft_node_" + name
			}
			out[name] = string(text)
		}
	}
	return out
}

var (
	metricName = regexp.MustCompile(`weft_[a-z_]+`)
	stateLabel = regexp.MustCompile(`state="([a-z]+)"`)
)

// checkExpression: every metric in it exists, and so do the states; brackets are closed.
func checkExpression(t *testing.T, where, expression string) {
	t.Helper()
	metrics := exported(t)
	names := metricName.FindAllString(expression, -1)
	if len(names) == 0 {
		t.Errorf("%s names no metric of ours: %s", where, expression)
	}
	for _, name := range names {
		if metrics[name] == "" {
			t.Errorf("%s: there is no metric %s", where, name)
		}
	}
	for _, m := range stateLabel.FindAllStringSubmatch(expression, -1) {
		if !slices.ContainsFunc(names, func(name string) bool { return strings.Contains(metrics[name], fmt.Sprintf("%q", m[1])) }) {
			t.Errorf("%s: no metric has the state %s", where, m[1])
		}
	}
	var open []rune
	for _, r := range expression {
		if i := strings.IndexRune("({[", r); i >= 0 {
			open = append(open, rune(")}]"[i]))
		}
		if strings.ContainsRune(")}]", r) {
			if len(open) == 0 || open[len(open)-1] != r {
				t.Fatalf("%s: %c closes nothing: %s", where, r, expression)
			}
			open = open[:len(open)-1]
		}
	}
	if len(open) > 0 {
		t.Errorf("%s: a bracket is open: %s", where, expression)
	}
}

// documents are the objects of a manifest.
func documents(t *testing.T, path string) []*unstructured.Unstructured {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(text, []byte("# ")) {
		t.Errorf("%s: want a comment on top that says what it shows", path)
	}
	var out []*unstructured.Unstructured
	for decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096); ; {
		u := &unstructured.Unstructured{}
		if err := decoder.Decode(&u.Object); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		out = append(out, u)
	}
}

// TestRulesAreOfMetricsThatExist: and each has what Alertmanager shows.
func TestRulesAreOfMetricsThatExist(t *testing.T) {
	rules := documents(t, "../../manifests/monitoring/rules.yaml")[0]
	groups, _, err := unstructured.NestedSlice(rules.Object, "spec", "groups")
	if err != nil {
		t.Fatal(err)
	}
	var alerts []string
	for _, g := range groups {
		list, _, err := unstructured.NestedSlice(g.(map[string]any), "rules")
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list {
			rule := r.(map[string]any)
			name, _, _ := unstructured.NestedString(rule, "alert")
			expr, _, _ := unstructured.NestedString(rule, "expr")
			severity, _, _ := unstructured.NestedString(rule, "labels", "severity")
			summary, _, _ := unstructured.NestedString(rule, "annotations", "summary")
			description, _, _ := unstructured.NestedString(rule, "annotations", "description")
			alerts = append(alerts, name)
			checkExpression(t, name, expr)
			if !slices.Contains([]string{"info", "warning", "critical"}, severity) || !strings.Contains(summary, "{{ $labels.queue }}") || description == "" {
				t.Errorf("%s: severity %q, summary %q, description %q", name, severity, summary, description)
			}
		}
	}
	for _, want := range []string{"WeftBudget70Percent", "WeftBudget85Percent", "WeftBudget95Percent", "WeftBudgetBurnRate", "WeftBudgetUsedUp"} {
		if !slices.Contains(alerts, want) {
			t.Errorf("there is no alert %s", want)
		}
	}
}

// TestTheMonitorFindsTheController: its pods, and their port.
func TestTheMonitorFindsTheController(t *testing.T) {
	monitor := documents(t, "../../manifests/monitoring/podmonitor.yaml")[0]
	text, err := os.ReadFile("../../manifests/controller/deployment.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var deployment unstructured.Unstructured
	if err := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096).Decode(&deployment.Object); err != nil {
		t.Fatal(err)
	}
	labels, _, _ := unstructured.NestedStringMap(deployment.Object, "spec", "template", "metadata", "labels")
	selector, _, _ := unstructured.NestedStringMap(monitor.Object, "spec", "selector", "matchLabels")
	if len(selector) == 0 || !labelSet(labels).Has("app.kubernetes.io/name") || selector["app.kubernetes.io/name"] != labels["app.kubernetes.io/name"] ||
		monitor.GetNamespace() != deployment.GetNamespace() {
		t.Errorf("%v in %s, the controller's pods have %v in %s", selector, monitor.GetNamespace(), labels, deployment.GetNamespace())
	}
	endpoints, _, _ := unstructured.NestedSlice(monitor.Object, "spec", "podMetricsEndpoints")
	containers, _, _ := unstructured.NestedSlice(deployment.Object, "spec", "template", "spec", "containers")
	ports, _, _ := unstructured.NestedSlice(containers[0].(map[string]any), "ports")
	if !slices.ContainsFunc(ports, func(p any) bool { return p.(map[string]any)["name"] == endpoints[0].(map[string]any)["port"] }) {
		t.Errorf("port %v, the controller has %v", endpoints[0], ports)
	}
	// And so does the tunnel of weft report.
	if !slices.ContainsFunc(ports, func(p any) bool { return p.(map[string]any)["name"] == controllerPort }) {
		t.Errorf("the controller has no port %s", controllerPort)
	}
}

func TestExamplesOfAutoscalers(t *testing.T) {
	keda := documents(t, "../../manifests/examples/autoscaling/keda.yaml")[0]
	triggers, _, err := unstructured.NestedSlice(keda.Object, "spec", "triggers")
	if err != nil || len(triggers) != 1 || keda.GetKind() != "ScaledObject" {
		t.Fatalf("%s: triggers %v, %v", keda.GetKind(), triggers, err)
	}
	metadata, _, err := unstructured.NestedStringMap(triggers[0].(map[string]any), "metadata") // of strings alone
	if err != nil || metadata["threshold"] == "" || metadata["serverAddress"] == "" {
		t.Errorf("metadata %v, %v", metadata, err)
	}
	checkExpression(t, "keda.yaml", metadata["query"])
	for _, part := range []string{"weft_queue_eligible_pending_gpus", `state="headroom"`, "min("} {
		if !strings.Contains(metadata["query"], part) {
			t.Errorf("the query has no %s: %s", part, metadata["query"])
		}
	}
	karpenter := documents(t, "../../manifests/examples/autoscaling/karpenter.yaml")
	if len(karpenter) != 2 || karpenter[0].GetKind() != "NodePool" || karpenter[1].GetKind() != "NodeOverlay" {
		t.Fatalf("%v", karpenter)
	}
	capacity, _, err := unstructured.NestedStringMap(karpenter[1].Object, "spec", "capacity")
	if err != nil || capacity[string(podspec.ResourceGPUPercent)] == "" || len(capacity) != 1 {
		t.Errorf("capacity %v, %v", capacity, err)
	}
}

// TestMetricsOfReportsExist: those that weft report waste asks for, and those that the page names.
func TestMetricsOfReportsExist(t *testing.T) {
	metrics := exported(t)
	page, err := os.ReadFile("../../docs/reports.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(metricName.FindAllString(string(page), -1), metricHeld, metricHeldSince, metricUtilization) {
		if metrics[name] == "" {
			t.Errorf("there is no metric %s", name)
		}
	}
}
