package simcmd

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/simulator"
)

const (
	nodeList = "sn,cpu_milli,memory_mib,gpu,model\nn-0,64000,262144,2,T4\nn-1,64000,262144,4,A10\nn-2,32000,65536,0,\n"
	podList  = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\np-0,4000,8192,1,1000,\np-1,2000,8192,1,500,T4\np-2,2000,8192,1,300,\n" +
		"p-3,8000,8192,2,1000,\np-4,1000,1024,0,0,\n"
	jobList = "timestamp,duration,num_gpus,gpu_time,cluster\n2017-09-04 10:30:41,7200.0,8,57600,a\n2017-09-03 10:30:41,1800,2,3600,b\n"
)

// lay writes lists into a folder and makes it the working one.
func lay(t *testing.T, files map[string]string) {
	t.Helper()
	t.Chdir(t.TempDir())
	for name, text := range files {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func sim(ctx context.Context, args string) (out, errOut string, err error) {
	var o, e bytes.Buffer
	cmd := New()
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.SetOut(&o)
	cmd.SetErr(&e)
	cmd.SetArgs(strings.Fields(args))
	err = cmd.ExecuteContext(ctx)
	return o.String(), e.String(), err
}

func TestOutput(t *testing.T) {
	lay(t, map[string]string{"nodes.csv": nodeList, "openb_pod_list_tiny.csv": podList, "jobs.csv": jobList, "large.csv": podList + "p-5,65000,1,0,0,\np-6,1,1,5,1000,\n"})
	speed := regexp.MustCompile(`"pods_per_second":[0-9.e+]+`)
	tests := map[string]struct{ args, want, errOut string }{
		"runs in order, as JSON": {
			args: "openb --nodes nodes.csv --pods openb_pod_list_tiny.csv --policy bestfit,fgd --seeds 42-43 --load 1 -o json",
			want: `{"workload":"tiny","policy":"bestfit","seed":42,"engine":"core",`,
		},
		"the real scheduler": {
			args: "openb --nodes nodes.csv --pods openb_pod_list_tiny.csv --engine framework -o json",
			want: `{"workload":"tiny","policy":"default","seed":42,"engine":"framework",`,
		},
		"a table":                  {args: "openb --nodes nodes.csv --pods openb_pod_list_tiny.csv --policy bestfit --seeds 1,2", want: "tiny      bestfit  2      "},
		"a table beside the bound": {args: "openb --nodes nodes.csv --pods openb_pod_list_tiny.csv --bound", want: "BOUND@100"},
		"the bound":                {args: "bound --nodes nodes.csv --pods openb_pod_list_tiny.csv --seeds 3", want: "WORKLOAD  SEED  ASKED"},
		"the bound as JSON":        {args: "bound --nodes nodes.csv --pods openb_pod_list_tiny.csv -o json", want: `{"workload":"tiny","seed":42,"load":1.3,"asked":`},
		"progress is not output": {
			args: "openb --nodes nodes.csv --pods openb_pod_list_tiny.csv --progress -o json", want: `{"workload":"tiny","policy":"default"`,
		},
		"pods that are too large are told": {
			args: "openb --nodes nodes.csv --pods large.csv -o json", want: `{"workload":"large"`,
			errOut: "large.csv: 2 of 7 pods fit no node of nodes.csv, not even an empty one\n",
		},
		"what is in lists": {
			args: "check --nodes nodes.csv --pods large.csv --jobs jobs.csv",
			want: "nodes.csv    3 nodes  6 GPUs of 2 models\n" +
				"large.csv    7 pods   5 ask for 8.8 GPUs, 2 of them for a part of one, 1 for certain models\n" +
				"large.csv:7  2 pods   ask for more than any node has, this the first\n" +
				"jobs.csv     2 jobs   of 2 virtual clusters, up to 8 GPUs, 17 GPU-hours, submitted 2017-09-03 to 2017-09-04\n",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			out, errOut, err := sim(t.Context(), tc.args)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(out, tc.want) {
				t.Errorf("got\n%swant\n%s", out, tc.want)
			}
			if errOut != tc.errOut {
				t.Errorf("got on the side %q, want %q", errOut, tc.errOut)
			}
			if strings.Contains(tc.args, "json") {
				again, _, _ := sim(t.Context(), tc.args)
				if diff := cmp.Diff(speed.ReplaceAllString(out, ""), speed.ReplaceAllString(again, "")); diff != "" {
					t.Errorf("the same again is not the same:\n%s", diff)
				}
				for line := range strings.Lines(out) {
					if !json.Valid([]byte(line)) {
						t.Errorf("no JSON: %s", line)
					}
				}
			}
		})
	}
}

func TestErrors(t *testing.T) {
	lay(t, map[string]string{
		"nodes.csv": nodeList, "pods.csv": podList, "cut.csv": podList + "p-5,1000", "twice.csv": podList + "p-0,1,1,0,0,\n",
		"unknown.csv": "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_type\n", "negative.csv": podList + "p-5,-1,1,0,0,\n",
		"jobs.csv": jobList + "2017-09-04 10:30:41,-5,8,57600,a\n", "cpu.csv": "name,cpu_milli,memory_mib,num_gpu,gpu_milli\np,1,1,0,0\n",
	})
	tests := map[string]struct{ args, want string }{
		"no lists":     {"openb", `required flag(s) "nodes", "pods" not set`},
		"no such list": {"openb --nodes none.csv --pods pods.csv", "open none.csv: no such file"},
		"a policy":     {"openb --nodes nodes.csv --pods pods.csv --policy best", `--policy: policy "best": want all or some of random, dotprod`},
		"an engine":    {"openb --nodes nodes.csv --pods pods.csv --engine real", `--engine is "real": want core or framework`},
		"an engine's policy": {
			"openb --nodes nodes.csv --pods pods.csv --engine framework --policy default,fgd",
			"--policy has fgd: engine framework runs the plugin itself, want default alone",
		},
		"seeds":              {"openb --nodes nodes.csv --pods pods.csv --seeds 5-", `--seeds: seeds "5-": want numbers and ranges such as 42-51,60`},
		"a load":             {"openb --nodes nodes.csv --pods pods.csv --load 0", "--load is 0: want more than 0 and up to 10"},
		"a load that is NaN": {"bound --nodes nodes.csv --pods pods.csv --load NaN", "--load is NaN: want more than 0 and up to 10"},
		"an output":          {"openb --nodes nodes.csv --pods pods.csv -o yaml", `--output is "yaml": want table or json`},
		"arguments":          {"openb here", "unknown command"},
		"a list that ends":   {"openb --nodes nodes.csv --pods cut.csv", "cut.csv:7: 2 fields: want 6, as in the header"},
		"a name twice":       {"openb --nodes nodes.csv --pods twice.csv", `twice.csv:7: name is "p-0", as in line 2: want each name once`},
		"a column":           {"openb --nodes nodes.csv --pods unknown.csv", `unknown.csv:1: column "gpu_type" is not known: want name,cpu_milli`},
		"a negative number":  {"check --pods negative.csv", `negative.csv:7: cpu_milli is "-1": want a whole number from 0`},
		"a negative time":    {"check --jobs jobs.csv", `jobs.csv:4: duration is "-5": want seconds from 0`},
		"nothing to check":   {"check", "nothing to check: give --nodes, --pods or --jobs"},
		"no GPUs asked for":  {"bound --nodes nodes.csv --pods cpu.csv", "bad workload cpu: none of the 1 pods asks for a GPU"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			out, _, err := sim(t.Context(), tc.args)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got error %v, want %q", err, tc.want)
			}
			if out != "" {
				t.Errorf("got output %q", out)
			}
		})
	}
}

func TestInterrupt(t *testing.T) {
	lay(t, map[string]string{"nodes.csv": nodeList, "pods.csv": podList})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for args, want := range map[string]string{
		"openb --nodes nodes.csv --pods pods.csv --seeds 1-8": "interrupted after 0 of 8 runs",
		"bound --nodes nodes.csv --pods pods.csv --seeds 1-8": "interrupted",
	} {
		if _, _, err := sim(ctx, args); err == nil || err.Error() != want {
			t.Errorf("%s: got %v", args, err)
		}
	}
}

// TestEveryFieldIsDocumented: the tables of docs/simulator.md are the fields of the JSON output, no more and no less.
func TestEveryFieldIsDocumented(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "simulator.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "## Fields\n")
	lines, bounds, _ := strings.Cut(rest, "### weft sim bound")
	bounds, _, _ = strings.Cut(bounds, "\n## ")
	row := regexp.MustCompile("(?m)^\\| `([^`]+)` \\|")
	for text, value := range map[string]any{lines: simulator.Line{}, bounds: simulator.Bound{}} {
		var got, want []string
		for _, m := range row.FindAllStringSubmatch(text, -1) {
			got = append(got, m[1])
		}
		for f := range reflect.TypeOf(value).Fields() {
			if f.IsExported() {
				want = append(want, f.Tag.Get("json"))
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("docs/simulator.md, section Fields, against %T (- the program, + the page):\n%s", value, diff)
		}
	}
}

// TestEveryPolicyIsDocumented: with a row of its own.
func TestEveryPolicyIsDocumented(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "simulator.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range simulator.PolicyNames() {
		if !strings.Contains(string(page), "| `"+name+"` |") {
			t.Errorf("docs/simulator.md has no row for policy %s", name)
		}
	}
}
