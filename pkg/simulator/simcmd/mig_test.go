package simcmd

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/simulator/migsim"
)

func TestMIGOutput(t *testing.T) {
	lay(t, map[string]string{"openb_pod_list_tiny.csv": podList})
	speed := regexp.MustCompile(`"pods_per_second":[0-9.e+]+`)
	for name, tc := range map[string]struct{ args, want string }{
		"a table":         {"mig --models H100-80GB --nodes 1 --lifetimes 1 --policy first-fit,repack", "1     first-fit  1      "},
		"as JSON":         {"mig --models H100-80GB --nodes 1 --lifetimes 1 --seeds 1-2 --load 1,0.5 -o json", `{"workload":"built-in","policy":"first-fit","seed":1,"load":1,"nodes":1,"gpus":8,`},
		"the mix of list": {"mig --pods openb_pod_list_tiny.csv --models H100-80GB --nodes 1 --lifetimes 1 -o json", `{"workload":"tiny",`},
	} {
		t.Run(name, func(t *testing.T) {
			out, errOut, err := sim(t.Context(), tc.args)
			if err != nil || errOut != "" {
				t.Fatal(err, errOut)
			}
			if !strings.Contains(out, tc.want) {
				t.Errorf("got\n%swant\n%s", out, tc.want)
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

func TestMIGErrors(t *testing.T) {
	lay(t, map[string]string{"whole.csv": "name,cpu_milli,memory_mib,num_gpu,gpu_milli\np,1,1,1,1000\n", "cut.csv": podList + "p-5,1000"})
	for name, tc := range map[string]struct{ args, want string }{
		"a policy":         {"mig --policy fgd", `--policy: policy "fgd": want all or some of first-fit`},
		"seeds":            {"mig --seeds x", `--seeds: seeds "x": want numbers`},
		"a load":           {"mig --load 1,-1", "--load is -1: want more than 0 and up to 10"},
		"an output":        {"mig -o yaml", `--output is "yaml": want table or json`},
		"a model":          {"mig --models T4", `model "T4": want some of A100-40GB`},
		"nodes":            {"mig --nodes 0", "0 nodes: want 1 to 1000"},
		"lifetimes":        {"mig --lifetimes -1", "-1 lifetimes: want more than 0 and up to 10000"},
		"no such list":     {"mig --pods none.csv", "open none.csv: no such file"},
		"nothing shared":   {"mig --pods whole.csv", "none of the 1 pods of whole.csv asks for a part of one GPU"},
		"a list that ends": {"mig --pods cut.csv", "cut.csv:7: 2 fields: want 6, as in the header"},
	} {
		out, _, err := sim(t.Context(), tc.args)
		if err == nil || !strings.Contains(err.Error(), tc.want) || out != "" {
			t.Errorf("%s: got %q and error %v, want %q", name, out, err, tc.want)
		}
	}
}

// TestEveryFieldOfMIGIsDocumented: the table of docs/simulator.md is the fields of the JSON output, no more and no less, and every policy
// is named.
func TestEveryFieldOfMIGIsDocumented(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "simulator.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## MIG\n")
	section, _, _ = strings.Cut(section, "\n## ")
	_, fields, _ := strings.Cut(section, "### Fields of weft sim mig\n")
	var got, want []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(fields, -1) {
		got = append(got, m[1])
	}
	for f := range reflect.TypeFor[migsim.Line]().Fields() {
		want = append(want, f.Tag.Get("json"))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("docs/simulator.md, section MIG (- the program, + the page):\n%s", diff)
	}
	for _, name := range migsim.PolicyNames() {
		if !strings.Contains(section, "`"+name+"`") && !strings.HasPrefix(name, "weft-") {
			t.Errorf("docs/simulator.md, section MIG, does not name policy %s", name)
		}
	}
}
