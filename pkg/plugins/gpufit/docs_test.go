package gpufit

import (
	"os"
	"reflect"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/fit"
)

func allUnexported(reflect.Type) bool { return true }

// TestTheTableOfReasonsIsComplete holds docs/api.md to the one list of reasons.
func TestTheTableOfReasonsIsComplete(t *testing.T) {
	text, err := os.ReadFile("../../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := regexpCut(text, regexp.MustCompile(`(?m)^## Reasons$`))
	if !found {
		t.Fatal("docs/api.md has no section Reasons")
	}
	if before, _, more := regexpCut(section, regexp.MustCompile(`(?m)^## `)); more {
		section = before
	}
	type row struct{ Name, Meaning, WaitsFor string }
	var got, want []row
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]*)` \\| (.*) \\| (.*) \\|$").FindAllSubmatch(section, -1) {
		got = append(got, row{string(m[1]), string(m[2]), string(m[3])})
	}
	for _, r := range fit.Reasons() {
		waits := r.Event().String()
		if r.Event() == fit.NeverByItself {
			waits = "nothing"
		}
		want = append(want, row{r.String(), r.Text() + "; " + r.Advice(), waits})
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("docs/api.md (-want +got):\n%s", diff)
	}
}

func regexpCut(s []byte, sep *regexp.Regexp) (before, after []byte, found bool) {
	at := sep.FindIndex(s)
	if at == nil {
		return s, nil, false
	}
	return s[:at[0]], s[at[1]:], true
}
