package cli

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	v1 "k8s.io/api/core/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/yaml"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/ledger"
)

// parseQueues reads Queues, GPUClasses and namespaces, as YAML.
func parseQueues(t testing.TB, text string) QueueObjects {
	t.Helper()
	o := QueueObjects{Served: true}
	for document := range strings.SplitSeq(text, "---\n") {
		var kind struct {
			Kind string `json:"kind"`
		}
		read := func(into any) {
			if err := yaml.UnmarshalStrict([]byte(document), into); err != nil {
				t.Fatalf("%v in\n%s", err, document)
			}
		}
		if err := yaml.Unmarshal([]byte(document), &kind); err != nil {
			t.Fatal(err)
		}
		switch kind.Kind {
		case "Queue":
			q := &v1alpha1.Queue{}
			read(q)
			o.Queues = append(o.Queues, q)
		case "GPUClass":
			c := &v1alpha1.GPUClass{}
			read(c)
			o.Classes = append(o.Classes, c)
		case "Namespace":
			n := &v1.Namespace{}
			read(n)
			o.Namespaces = append(o.Namespaces, n)
		default:
			t.Fatalf("kind %q of\n%s", kind.Kind, document)
		}
	}
	return o
}

// at is the moment of an argument now=RFC 3339.
func at(t *testing.T, d *datadriven.TestData) int64 {
	t.Helper()
	for _, a := range d.CmdArgs {
		if a.Key == "now" {
			when, err := time.Parse(time.RFC3339, a.Vals[0])
			if err != nil {
				t.Fatal(err)
			}
			return when.Unix()
		}
	}
	t.Fatalf("%s: want now=", d.Pos)
	return 0
}

// bothColours prints with and without colour, which must not differ otherwise.
func bothColours(t *testing.T, d *datadriven.TestData, print func(out *bytes.Buffer, colour bool) error) string {
	t.Helper()
	var texts [2]string
	for i, colour := range []bool{false, true} {
		var out bytes.Buffer
		if err := print(&out, colour); err != nil {
			t.Fatal(err)
		}
		texts[i] = out.String()
	}
	sameWithoutColour(t, d, texts[0], texts[1])
	return texts[0]
}

func goldenQueues(t *testing.T, d *datadriven.TestData, o QueueObjects, s scenario) string {
	t.Helper()
	now := at(t, d)
	if d.Cmd == "queues" {
		return bothColours(t, d, func(out *bytes.Buffer, colour bool) error { return RenderQueues(out, NewQueues(o, now), colour, false) })
	}
	a, ok := NewQueueAnswer(d.CmdArgs[0].Key, o, s.Pods, DefaultSchedulerName, now)
	if !ok {
		return noQueue(d.CmdArgs[0].Key, o).Error() + "\n"
	}
	return bothColours(t, d, func(out *bytes.Buffer, colour bool) error { return RenderQueueAnswer(out, a, colour, false) })
}

// goldenLedger makes a ledger of lines of the form
//
//	POD-UID/NUMBER NAMESPACE/POD from=T to=T milli=N [rate=N] [queue=Q] [class=C] [product=P] [profile=P] [price=MICROS] [currency=C]
//	    [user=U] [workload=W] [label=K:V] [startup] [free] [open] [estimated]
//
// with times in RFC 3339, and returns its path. The watermark is the latest of the times.
func goldenLedger(t *testing.T, input string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ledger.db")
	db, err := ledger.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	epoch, err := db.Lead(t.Context(), "test", 0)
	if err != nil {
		t.Fatal(err)
	}
	var rows []ledger.Segment
	var asOf int64
	for line := range strings.Lines(input) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		w := words{t: t, line: line, kv: map[string][]string{}}
		for _, f := range fields[2:] {
			key, value, _ := strings.Cut(f, "=")
			w.kv[key] = append(w.kv[key], value)
		}
		moment := func(key string) int64 {
			when, err := time.Parse(time.RFC3339, w.get(key, ""))
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			return when.Unix()
		}
		uid, number, _ := strings.Cut(fields[0], "/")
		n, err := strconv.Atoi(number)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		namespace, pod, _ := strings.Cut(fields[1], "/")
		milli := int64(w.int("milli", 1000))
		s := ledger.Segment{
			PodUID: uid, Number: int32(n), Namespace: namespace, Pod: pod, Node: w.get("node", "n1"), Queue: w.get("queue", ""), User: w.get("user", ""),
			Workload: w.get("workload", ""), Class: w.get("class", ""), Product: w.get("product", ""), Profile: w.get("profile", ""), MilliGPU: milli,
			Rate: int64(w.int("rate", int(milli))), PriceMicros: int64(w.int("price", 0)), Currency: w.get("currency", ""), Startup: w.has("startup"),
			Charged: !w.has("free"), Start: moment("from"), Through: moment("to"), Estimated: w.has("estimated"),
		}
		for _, l := range w.pairs("label", 2) {
			s.Labels = map[string]string{l[0]: l[1]}
		}
		if !w.has("open") {
			s.End, s.Closed = s.Through, "observed"
		}
		asOf = max(asOf, s.Through)
		rows = append(rows, s)
	}
	if err := db.Commit(t.Context(), epoch, asOf, rows); err != nil {
		t.Fatal(err)
	}
	return path
}

// weft runs a command that needs no cluster.
func weft(t testing.TB, args ...string) (string, error) {
	t.Helper()
	streams, _, out, errOut := genericiooptions.NewTestIOStreams()
	cmd := NewCommand("weft", streams)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	if errOut.Len() > 0 {
		t.Errorf("weft %v wrote to the standard error: %s", args, errOut)
	}
	return out.String(), err
}

// goldenReport runs the command line of the input with the ledger.
func goldenReport(t *testing.T, d *datadriven.TestData, path string) string {
	t.Helper()
	words := shellWords(t, d.Input)
	if len(words) < 2 || words[0] != "weft" || words[1] != "report" {
		t.Fatalf("%s: want weft report …", d.Pos)
	}
	out, err := weft(t, append(words[1:], "--ledger", path)...)
	if err != nil {
		return fmt.Sprintf("error: %v\n", err)
	}
	// The path of the ledger is another in each run.
	return strings.ReplaceAll(out, " --ledger "+path, "")
}

// shellWords splits a command line as a shell does, of which it knows blanks and '…'.
func shellWords(t testing.TB, line string) []string {
	t.Helper()
	var out []string
	var word strings.Builder
	quoted, has := false, false
	for _, r := range strings.ReplaceAll(strings.TrimSpace(line), `'\''`, "\x00") {
		switch {
		case r == '\'':
			quoted, has = !quoted, true
		case r == 0:
			word.WriteByte('\'')
		case !quoted && (r == ' ' || r == '\n'):
			if has {
				out = append(out, word.String())
			}
			word.Reset()
			has = false
		default:
			word.WriteRune(r)
			has = true
		}
	}
	if quoted {
		t.Fatalf("%q: a quote is open", line)
	}
	if has {
		out = append(out, word.String())
	}
	return out
}
