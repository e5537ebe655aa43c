package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFiguresOfThePage: docs/planning.md says what the models miss on the Philly trace.
func TestFiguresOfThePage(t *testing.T) {
	dir := os.Getenv("WEFT_DATA")
	if dir == "" {
		dir = "../../../shared/data"
	}
	path := filepath.Join(dir, "philly", "philly_2017_09_10.csv")
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("WEFT_REQUIRE_DATA") == "1" {
			t.Fatalf("the traces are missing, and WEFT_REQUIRE_DATA is 1: %v", err)
		}
		t.Skipf("the traces are missing: name their folder in WEFT_DATA (%v)", err)
	}
	page, err := os.ReadFile("../../docs/planning.md")
	if err != nil {
		t.Fatal(err)
	}
	out, err := run(t, "plan", "demand", "--trace", path, "--history", "37d", "--horizon", "7d", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var d DemandPlan
	if err := json.Unmarshal([]byte(out), &d); err != nil {
		t.Fatal(err)
	}
	figures := func(queue string, x Demand) {
		row := "| " + queue + " |"
		_, line, found := strings.Cut(string(page), row)
		line, _, _ = strings.Cut(line, "\n")
		for _, s := range x.Skills {
			figure := fmt.Sprintf("%d.%d %%", s.WAPEPerMille/10, s.WAPEPerMille%10)
			if s.Model == x.Model {
				figure = "**" + figure + "**"
			}
			if s.WAPEPerMille < 0 {
				figure = "–"
			}
			if !found || !strings.Contains(line, figure) {
				t.Errorf("queue %s, %s: %s is not in the row %q", queue, s.Model, figure, line)
			}
		}
		if !strings.Contains(line, x.Model) {
			t.Errorf("queue %s: %s is not in the row %q", queue, x.Model, line)
		}
	}
	for _, q := range d.Queues {
		figures(q.Queue, q.Demand)
	}
	figures("all", d.Classes[0].Demand)
}
