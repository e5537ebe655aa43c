package cli

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/fit"
)

// docs is docs/cli.md cut at its headings, by heading.
func docs(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	heading := ""
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			heading = strings.TrimSpace(strings.TrimLeft(line, "#"))
		}
		out[heading] += line
	}
	return out
}

// fieldRow is a row of a table of fields: | `path` | type | meaning |.
var fieldRow = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([a-z ]+) \\| .+ \\|$")

// documented are the fields of a section with their types.
func documented(section string) map[string]string {
	out := map[string]string{}
	for _, m := range fieldRow.FindAllStringSubmatch(section, -1) {
		out[m[1]] = m[2]
	}
	return out
}

// fieldsOf are the JSON fields of a type with their types: nodes[].gpus[].id is a string.
func fieldsOf(t *testing.T, typ reflect.Type, prefix string, out map[string]string) {
	t.Helper()
	for f := range typ.Fields() {
		name := f.Tag.Get("json")
		if name == "" || strings.ContainsAny(name, ",-") {
			t.Fatalf("field %s of %s: its JSON name is %q: want a plain one, so that no field is ever left out", f.Name, typ.Name(), name)
		}
		path, ft := prefix+name, f.Type
		switch ft.Kind() {
		case reflect.Pointer:
			out[path] = "object or null"
			fieldsOf(t, ft.Elem(), path+".", out)
		case reflect.Struct:
			out[path] = "object"
			fieldsOf(t, ft, path+".", out)
		case reflect.Slice:
			if ft.Elem().Kind() == reflect.Struct {
				out[path] = "list of objects"
				fieldsOf(t, ft.Elem(), path+"[].", out)
			} else {
				out[path] = "list of " + kindName(t, ft.Elem()) + "s"
			}
		default:
			out[path] = kindName(t, ft)
		}
	}
}

func kindName(t *testing.T, typ reflect.Type) string {
	t.Helper()
	switch typ.Kind() {
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "boolean"
	case reflect.Int, reflect.Int64:
		return "integer"
	}
	t.Fatalf("%s: amounts are integers with the unit in the name", typ)
	return ""
}

func TestEveryFieldIsDocumented(t *testing.T) {
	sections := docs(t)
	for section, value := range map[string]any{
		"Fields of weft top": Report{}, "Fields of weft why": Answer{}, "Fields of weft why podgroup": GangAnswer{}, "Fields of weft version": Version{},
		"Fields of weft queue": Queues{}, "Fields of weft queue NAME": QueueAnswer{}, "Fields of weft report": Usage{}, "Fields of weft report waste": Waste{},
	} {
		want := map[string]string{}
		fieldsOf(t, reflect.TypeOf(value), "", want)
		if diff := cmp.Diff(want, documented(sections[section])); diff != "" {
			t.Errorf("docs/cli.md, section %q, against %T (- the program, + the page):\n%s", section, value, diff)
		}
	}
}

// TestUnitsAreInTheNames: an amount says its unit, or is a number of things.
func TestUnitsAreInTheNames(t *testing.T) {
	numbers := []string{
		"nodes", "nodesWithoutGPU", "gpus", "pods", "conflicts", "problems", "mixPods", "count", "index", "nodesThatFit", "start", "size",
		"numaNode", "nvlinkSwitchLinks", "links",
		"minMembers", "members", "gated", "pending", "bound", "running", "succeeded", "failed", "deleting", "surplus", "room", "priority",
		"depth", "pendingPods", "weight", "segments",
	}
	units := regexp.MustCompile(`(Seconds|MilliGPU|MilliCPU|MemoryMiB|PerMille|Percent|Micros|GPUs|Instances|MemorySlices|PerNode)$`)
	for _, value := range []any{Report{}, Answer{}, GangAnswer{}, Queues{}, QueueAnswer{}, Usage{}, Waste{}} {
		fields := map[string]string{}
		fieldsOf(t, reflect.TypeOf(value), "", fields)
		for _, path := range slices.Sorted(maps.Keys(fields)) {
			name := path[strings.LastIndex(path, ".")+1:]
			title := strings.ToUpper(name[:1]) + name[1:]
			if fields[path] == "integer" && !slices.Contains(numbers, name) && !units.MatchString(title) {
				t.Errorf("%T: %s has no unit in its name", value, path)
			}
		}
	}
}

func TestEveryReasonIsDocumented(t *testing.T) {
	section := docs(t)["Reasons"]
	for _, r := range append(fit.Reasons(), fit.Fits) {
		if r == fit.AssignmentConflict {
			continue // arises between two decisions of the scheduler, so it is never an answer
		}
		row := fmt.Sprintf("| `%s` | %s | %s | %s |", r, r.Text(), r.Event(), r.Advice())
		if r == fit.Fits {
			row = "`Fits`"
		}
		if !strings.Contains(section, row) {
			t.Errorf("docs/cli.md, section Reasons: there is no row\n%s", row)
		}
	}
}

func TestEveryVerdictIsDocumented(t *testing.T) {
	section := docs(t)["Verdicts"]
	for _, v := range []string{
		VerdictInvalid, VerdictEnded, VerdictBound, VerdictDeleted, VerdictGated, VerdictOtherScheduler, VerdictHeldBack, VerdictFits, VerdictDoesNotFit,
		VerdictNotGang, VerdictIncomplete, VerdictPlaced,
	} {
		if !strings.Contains(section, "| `"+v+"` |") {
			t.Errorf("docs/cli.md, section Verdicts: %s is missing", v)
		}
	}
}

func TestEveryLetterIsDocumented(t *testing.T) {
	section := docs(t)["Reading the map"]
	for _, g := range glyphs {
		if !strings.Contains(section, fmt.Sprintf("| `%c` | %s |", g.glyph, g.text)) {
			t.Errorf("docs/cli.md, section Reading the map: there is no row | `%c` | %s |", g.glyph, g.text)
		}
	}
}

// TestAdviceOnPermissions: what an error tells an administrator to run is what the page says.
func TestAdviceOnPermissions(t *testing.T) {
	section := docs(t)["Permissions"]
	for line := range strings.Lines(rbacAdvice) {
		if command := strings.TrimSpace(line); strings.HasPrefix(command, "kubectl ") && !strings.Contains(section, command) {
			t.Errorf("docs/cli.md, section Permissions: %q is missing", command)
		}
	}
}

func TestEveryReasonOfQueuesIsDocumented(t *testing.T) {
	section := docs(t)["Reasons of queues"]
	for _, r := range queueReasons() {
		if !strings.Contains(section, fmt.Sprintf("| `%s` |", r)) {
			t.Errorf("docs/cli.md, section Reasons of queues: %s is missing", r)
		}
	}
	if n := strings.Count(section, "\n| `"); n != len(queueReasons()) {
		t.Errorf("docs/cli.md, section Reasons of queues: %d rows for %d reasons", n, len(queueReasons()))
	}
}

// TestExamplesAreReal: the output that the pages show is that of golden files.
func TestExamplesAreReal(t *testing.T) {
	var golden strings.Builder
	for _, name := range []string{"page", "queues", "reports"} {
		text, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		golden.Write(text)
	}
	for _, name := range []string{"cli.md", "reports.md"} {
		page, err := os.ReadFile("../../docs/" + name)
		if err != nil {
			t.Fatal(err)
		}
		blocks := regexp.MustCompile("(?s)```text\n(.*?)```").FindAllStringSubmatch(string(page), -1)
		if len(blocks) == 0 {
			t.Errorf("docs/%s shows no output", name)
		}
		for _, b := range blocks {
			if !strings.Contains(golden.String(), b[1]) {
				t.Errorf("docs/%s shows what no golden file has:\n%s", name, b[1])
			}
		}
	}
}
