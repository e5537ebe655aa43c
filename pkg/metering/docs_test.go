package metering

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/nvml"
	"weft.sh/weft/pkg/slot"
)

// section is what stands in docs/node.md under the heading.
func section(t *testing.T, heading string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/node.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("docs/node.md has no section %q", heading)
	}
	body, _, _ := strings.Cut(rest, "\n## ")
	return body
}

// row is a row of a table with three columns, the first of them a name.
var row = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^|]*) \\| .+ \\|$")

func rows(text string) map[string]string {
	out := map[string]string{}
	for _, m := range row.FindAllStringSubmatch(text, -1) {
		out[m[1]] = m[2]
	}
	return out
}

// TestEveryMetricIsDocumented compares names and labels with those of a scrape in which every metric has a series.
func TestEveryMetricIsDocumented(t *testing.T) {
	_, m := full(t)
	want := map[string]string{}
	label := regexp.MustCompile(`([a-z_]+)="`)
	for line := range strings.Lines(served(t, m)) {
		name, labels, ok := strings.Cut(line, "{")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		var names []string
		for _, l := range label.FindAllStringSubmatch(labels, -1) {
			names = append(names, l[1])
		}
		want[name] = strings.Join(names, ", ")
	}
	documented := map[string]string{}
	for name, labels := range rows(section(t, "Metrics")) {
		names := []string{"node"} // every metric has it
		for l := range strings.SplitSeq(labels, ", ") {
			if l != "none" {
				names = append(names, l)
			}
		}
		slices.Sort(names) // as they are served
		documented[name] = strings.Join(names, ", ")
	}
	if diff := cmp.Diff(want, documented); diff != "" {
		t.Errorf("docs/node.md (- the program, + the page):\n%s", diff)
	}
}

func TestEveryReasonIsDocumented(t *testing.T) {
	var documented []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z]+)` \\| [^|]+ \\|$").FindAllStringSubmatch(section(t, "Metrics"), -1) {
		documented = append(documented, m[1])
	}
	want := slices.Sorted(slices.Values(reasons))
	slices.Sort(documented)
	if diff := cmp.Diff(want, documented); diff != "" {
		t.Errorf("docs/node.md (- the program, + the page):\n%s", diff)
	}
}

func TestEveryFieldIsDocumented(t *testing.T) {
	want := map[string]string{}
	fields(t, reflect.TypeFor[Allocations](), "", want)
	if diff := cmp.Diff(want, rows(section(t, "Who holds what"))); diff != "" {
		t.Errorf("docs/node.md (- the program, + the page):\n%s", diff)
	}
}

// fields are the JSON fields of a type with their types in words.
func fields(t *testing.T, typ reflect.Type, prefix string, out map[string]string) {
	t.Helper()
	for f := range typ.Fields() {
		name := f.Tag.Get("json")
		if name == "" || strings.ContainsAny(name, ",-") {
			t.Fatalf("field %s of %s: its JSON name is %q: want a plain one, so that no field is ever left out", f.Name, typ.Name(), name)
		}
		ft, null := f.Type, ""
		if ft.Kind() == reflect.Pointer {
			ft, null = ft.Elem(), " or null"
		}
		switch {
		case ft == reflect.TypeFor[time.Time]():
			out[prefix+name] = "time" + null
		case ft.Kind() == reflect.String:
			out[prefix+name] = "string" + null
		case ft.Kind() == reflect.Int64:
			out[prefix+name] = "integer" + null
		case ft.Kind() == reflect.Slice:
			out[prefix+name] = "list of objects"
			fields(t, ft.Elem(), prefix+name+"[].", out)
		default:
			t.Fatalf("field %s of %s: %s: amounts are integers with the unit in the name", f.Name, typ.Name(), ft)
		}
	}
}

// TestTimesAreDocumented holds the page to the constants.
func TestTimesAreDocumented(t *testing.T) {
	for heading, wants := range map[string][]string{
		"Metrics": {
			fmt.Sprintf("measured every %d seconds", Interval/time.Second),
			fmt.Sprintf("older than %d seconds", staleAfter/time.Second),
			fmt.Sprintf("stay for %d minutes", Visible/time.Minute),
		},
		"Who holds what": {fmt.Sprintf("the %d that ended last", MaxEnded)},
	} {
		text := strings.Join(strings.Fields(section(t, heading)), " ")
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("docs/node.md, section %q does not say %q", heading, want)
			}
		}
	}
}

// TestEveryRefusalIsDocumented: what the event of a refused container says stands in the page, with what to do.
func TestEveryRefusalIsDocumented(t *testing.T) {
	text := section(t, "Troubleshooting")
	for _, err := range []error{
		slot.ErrUnassigned, slot.ErrElsewhere, slot.ErrHeld, slot.ErrIsolation, slot.ErrNoOwner, slot.ErrForeign,
		nvml.ErrUnavailable, nvml.ErrNoDeviceNode, nvml.ErrNoGPU,
	} {
		message, _, _ := strings.Cut(err.Error(), ";") // what to do stands beside it
		if !regexp.MustCompile(`(?m)^\| ` + regexp.QuoteMeta(message) + ` \| .+ \|$`).MatchString(text) {
			t.Errorf("docs/node.md does not say what to do about %q", message)
		}
	}
}
