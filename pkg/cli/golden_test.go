package cli

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/labels"
)

// TestGolden runs the scenarios of testdata. Regenerate with -rewrite and read the difference.
//
//	cluster                                            the cluster that the commands after it look at; see scenario
//	map [width=N] [detail=D] [ascii] [wide] [node=NAME,…] [l=SELECTOR] [product=P]
//	gangs [level=LEVEL] [width=N] [ascii]
//	why NAMESPACE/POD [ascii]
//	whygang NAMESPACE/PODGROUP [ascii]
//	queueobjects                                       Queues, GPUClasses and namespaces, as YAML, for the commands after it
//	queues now=TIME
//	queue NAME now=TIME
//	hold NAMESPACE/POD now=TIME                        why, with what its queue says
//	ledger                                             the ledger of the reports after it; see goldenLedger
//	report                                             a command line
func TestGolden(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var s scenario
		var q QueueObjects
		var books string
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "cluster":
				s = parseScenario(t, d.Input)
				return ""
			case "map":
				return goldenMap(t, d, s)
			case "gangs":
				return goldenGangs(t, d, s)
			case "whygang":
				return goldenGangAnswer(t, d, s)
			case "why":
				return goldenAnswer(t, d, s, nil)
			case "queueobjects":
				q = parseQueues(t, d.Input)
				return ""
			case "queues", "queue":
				return goldenQueues(t, d, q, s)
			case "hold":
				return goldenAnswer(t, d, s, &q)
			case "ledger":
				books = goldenLedger(t, d.Input)
				return ""
			case "report":
				return goldenReport(t, d, books)
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
	r := NewReport(s.Objects, sel)
	print := func() string {
		var out bytes.Buffer
		if err := RenderMap(&out, r, opts); err != nil {
			t.Fatal(err)
		}
		if err := RenderGangs(&out, r, opts); err != nil {
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
	plain := print()
	opts.Colour = true
	sameWithoutColour(t, d, plain, print())
	return plain
}

// sgr is what switches colour in a terminal.
var sgr = regexp.MustCompile(`\x1b\[[0-9;]*m`)

// sameWithoutColour: colour only repeats what the letters say, and does not shift columns.
func sameWithoutColour(t *testing.T, d *datadriven.TestData, plain, coloured string) {
	t.Helper()
	if diff := cmp.Diff(plain, sgr.ReplaceAllString(coloured, "")); diff != "" {
		t.Errorf("%s: with colour there is other text (-without +with)\n%s", d.Pos, diff)
	}
}

func goldenAnswer(t *testing.T, d *datadriven.TestData, s scenario, q *QueueObjects) string {
	var opts AnswerOptions
	for _, a := range d.CmdArgs[1:] {
		switch a.Key {
		case "ascii":
			opts.ASCII = true
		case "now":
		default:
			t.Fatalf("%s: unknown argument %q", d.Pos, a.Key)
		}
	}
	name := d.CmdArgs[0].Key
	for _, p := range s.Pods {
		if p.Namespace+"/"+p.Name != name {
			continue
		}
		print := func() string {
			var out bytes.Buffer
			a := NewAnswer(p, s.Objects, DefaultSchedulerName)
			opts.Gang = nil
			if q != nil {
				a.hold(NewQueueHold(p, *q, s.Objects, at(t, d)))
			}
			if g, ok := NewGangAnswer(p.Namespace, a.PodGroup, s.Objects, DefaultSchedulerName, DefaultTopologyLevels()); ok && a.Verdict != VerdictBound {
				a.join(g)
				opts.Gang = &g
			}
			if err := RenderAnswer(&out, a, opts); err != nil {
				t.Fatal(err)
			}
			return out.String()
		}
		plain := print()
		opts.Colour = true
		sameWithoutColour(t, d, plain, print())
		return plain
	}
	t.Fatalf("%s: no pod %q", d.Pos, name)
	return ""
}

func goldenGangs(t *testing.T, d *datadriven.TestData, s scenario) string {
	var opts MapOptions
	level := ""
	for _, a := range d.CmdArgs {
		switch a.Key {
		case "width":
			a.Scan(t, 0, &opts.Width)
		case "level":
			level = a.Vals[0]
		case "ascii":
			opts.ASCII = true
		default:
			t.Fatalf("%s: unknown argument %q", d.Pos, a.Key)
		}
	}
	r := NewReport(s.Objects, Selection{})
	print := func() string {
		var out bytes.Buffer
		if err := RenderGangMap(&out, r, level, opts); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	plain := print()
	opts.Colour = true
	sameWithoutColour(t, d, plain, print())
	return plain
}

func goldenGangAnswer(t *testing.T, d *datadriven.TestData, s scenario) string {
	var opts AnswerOptions
	for _, a := range d.CmdArgs[1:] {
		if a.Key != "ascii" {
			t.Fatalf("%s: unknown argument %q", d.Pos, a.Key)
		}
		opts.ASCII = true
	}
	namespace, name, _ := strings.Cut(d.CmdArgs[0].Key, "/")
	a, ok := NewGangAnswer(namespace, name, s.Objects, DefaultSchedulerName, DefaultTopologyLevels())
	if !ok {
		return "no such gang"
	}
	print := func() string {
		var out bytes.Buffer
		if err := RenderGangAnswer(&out, a, opts); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	plain := print()
	opts.Colour = true
	sameWithoutColour(t, d, plain, print())
	return plain
}
