package replay

import (
	"fmt"
	"slices"
	"strings"
)

// Policy is who may try to start, and what is done for who cannot.
type Policy struct {
	Name string
	// turns: queues take turns ([quota.Book.Turns]); otherwise jobs try in the order of priority and age.
	turns bool
	// strict: nobody starts while a job before it waits for room.
	strict bool
	// backfill: room is kept for the first that waits, of each priority, and who ends by then may use it. Only for gangs where
	// queues take turns, as in production.
	backfill bool
	// evict: others leave by priority, or because they borrowed what is guaranteed to somebody else.
	evict bool
	// podwise: pods start one by one, and a gang holds what it has until the rest follows.
	podwise bool
}

// policies are all, by the names that they have on the command line and in results.
var policies = []struct {
	Policy
	about string
}{
	{Policy{Name: "weft", turns: true, backfill: true, evict: true}, "gangs whole, fair sharing by queue, backfill, reclaim: the production code"},
	{Policy{Name: "noreclaim", turns: true, backfill: true}, "weft, but nobody is evicted"},
	{Policy{Name: "backfill", backfill: true}, "gangs whole, by age, with EASY backfill; no fair sharing"},
	{Policy{Name: "greedy"}, "gangs whole, by age, past whoever has no room; nothing is kept for anybody"},
	{Policy{Name: "fifo", strict: true}, "gangs whole, strictly by age"},
	{Policy{Name: "podwise", podwise: true}, "pods one by one, by age, as a scheduler that knows no gangs"},
}

// PolicyNames are the names of all policies.
func PolicyNames() []string {
	var out []string
	for _, p := range policies {
		out = append(out, p.Name)
	}
	return out
}

// PoliciesText is a line for each policy, for the help.
func PoliciesText() string {
	var b strings.Builder
	for _, p := range policies {
		fmt.Fprintf(&b, "  %-10s %s\n", p.Name, p.about)
	}
	return b.String()
}

// ParsePolicies reads a list of names; all is every policy.
func ParsePolicies(list []string) ([]Policy, error) {
	var out []Policy
	for _, name := range list {
		name = strings.ToLower(strings.TrimSpace(name))
		if name != "all" && !slices.Contains(PolicyNames(), name) {
			return nil, fmt.Errorf("policy %q: want all or some of %s", name, strings.Join(PolicyNames(), ", "))
		}
		for _, p := range policies {
			if (name == "all" || p.Name == name) && !slices.Contains(out, p.Policy) {
				out = append(out, p.Policy)
			}
		}
	}
	return out, nil
}
