package cli

import (
	"bytes"
	"testing"

	"github.com/cockroachdb/datadriven"
	"k8s.io/apimachinery/pkg/labels"
)

// TestGolden runs the scenarios of testdata. Regenerate with -rewrite and read the difference.
//
//	cluster                                            the cluster that the commands after it look at; see scenario
//	map [width=N] [detail=D] [ascii] [colour] [wide] [node=NAME,…] [l=SELECTOR] [product=P]
//	why NAMESPACE/POD [ascii] [colour]
func TestGolden(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var s scenario
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "cluster":
				s = parseScenario(t, d.Input)
				return ""
			case "map":
				return goldenMap(t, d, s)
			case "why":
				return goldenAnswer(t, d, s)
			}
			t.Fatalf("%s: unknown command %q", d.Pos, d.Cmd)
			return ""
		})
	})
}

func goldenMap(t *testing.T, d *datadriven.TestData, s scenario) string {
	var opts MapOptions
	var sel Selection
	wide := false
	for _, a := range d.CmdArgs {
		switch a.Key {
		case "width":
			a.Scan(t, 0, &opts.Width)
		case "detail":
			opts.Detail = Detail(a.Vals[0])
		case "ascii":
			opts.ASCII = true
		case "colour":
			opts.Colour = true
		case "wide":
			wide = true
		case "node":
			sel.Names = a.Vals
		case "product":
			sel.Products = a.Vals
		case "l":
			selector, err := labels.Parse(a.Vals[0])
			if err != nil {
				t.Fatal(err)
			}
			sel.Labels = selector
		default:
			t.Fatalf("%s: unknown argument %q", d.Pos, a.Key)
		}
	}
	var out bytes.Buffer
	r := NewReport(s.Objects, sel)
	if err := RenderMap(&out, r, opts); err != nil {
		t.Fatal(err)
	}
	if wide {
		out.WriteByte('\n')
		if err := RenderGPUs(&out, r, opts); err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}

func goldenAnswer(t *testing.T, d *datadriven.TestData, s scenario) string {
	var opts AnswerOptions
	for _, a := range d.CmdArgs[1:] {
		switch a.Key {
		case "ascii":
			opts.ASCII = true
		case "colour":
			opts.Colour = true
		default:
			t.Fatalf("%s: unknown argument %q", d.Pos, a.Key)
		}
	}
	name := d.CmdArgs[0].Key
	for _, p := range s.Pods {
		if p.Namespace+"/"+p.Name != name {
			continue
		}
		var out bytes.Buffer
		if err := RenderAnswer(&out, NewAnswer(p, s.Objects, DefaultSchedulerName), opts); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	t.Fatalf("%s: no pod %q", d.Pos, name)
	return ""
}
