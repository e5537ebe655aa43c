package simulator

import (
	"fmt"
	"math/rand"
	"slices"
	"strings"
)

// Policy says where pods go. One value serves one run, in one goroutine.
type Policy interface {
	// order is the order in which nodes of equal score are taken, as indexes into nodes by name; given is that of the
	// protocol.
	order(given []int) []int
	// observe sees a pod arrive. It reports whether scores given so far no longer hold.
	observe(c *class) (stale bool)
	// score rates the node for the class, which fits it: at least 0, the highest is taken. i is the node's place in the
	// order. It depends on the node, the class and what was observed only.
	score(i int, n *node, c *class) int64
	// pick chooses among the nodes that fit, of which there is at least one: the place in the order of the one that the pod
	// goes to. best is the first of those with the highest score.
	pick(scores []int64, best int) int
	// choose appends to gpus the indexes of the GPUs that a pod of the class is given on the node.
	choose(i int, n *node, c *class, gpus []int) ([]int, error)
}

// scoring is what most policies share: the order is the protocol's, nothing is learned, and the best score wins.
type scoring struct{}

func (scoring) order(given []int) []int { return given }
func (scoring) observe(*class) bool     { return false }
func (scoring) pick(_ []int64, best int) int {
	return best
}

// policies are all, by the names that they have on the command line and in results.
var policies = []struct {
	name, about string
	make        func(w *Workload, source *rand.Rand) (Policy, error)
}{
	{"random", "any node that fits, and any GPU of it", func(_ *Workload, r *rand.Rand) (Policy, error) { return &randomFit{source: r}, nil }},
	{"dotprod", "least dot product of what is left and what is asked", func(*Workload, *rand.Rand) (Policy, error) { return dotProd{}, nil }},
	{"gpuclustering", "pods of the same number of GPUs together", func(*Workload, *rand.Rand) (Policy, error) { return gpuClustering{}, nil }},
	{"gpupacking", "GPUs in use first, then nodes in use", func(*Workload, *rand.Rand) (Policy, error) { return gpuPacking{}, nil }},
	{"bestfit", "least left of CPU and GPUs", func(*Workload, *rand.Rand) (Policy, error) { return bestFit{}, nil }},
	{"fgd", "least growth of fragmentation", func(w *Workload, _ *rand.Rand) (Policy, error) { return fgd{target: &w.target}, nil }},
	{"default", "Weft's plugin with its defaults", func(w *Workload, _ *rand.Rand) (Policy, error) { return newPlugin(w, false) }},
	{"default-known", "the same, told what the list has", func(w *Workload, _ *rand.Rand) (Policy, error) { return newPlugin(w, true) }},
}

// PolicyNames are the names of all policies.
func PolicyNames() []string {
	var out []string
	for _, p := range policies {
		out = append(out, p.name)
	}
	return out
}

// PoliciesText is a line for each policy, for the help.
func PoliciesText() string {
	var b strings.Builder
	for _, p := range policies {
		fmt.Fprintf(&b, "  %-14s %s\n", p.name, p.about)
	}
	return b.String()
}

// ParsePolicies reads a list of names; all is every policy.
func ParsePolicies(list []string) ([]string, error) {
	var out []string
	for _, name := range list {
		switch name = strings.ToLower(strings.TrimSpace(name)); {
		case name == "all":
			out = append(out, PolicyNames()...)
		case slices.Contains(PolicyNames(), name):
			out = append(out, name)
		default:
			return nil, fmt.Errorf("policy %q: want all or some of %s", name, strings.Join(PolicyNames(), ", "))
		}
	}
	seen := map[string]bool{}
	return slices.DeleteFunc(out, func(name string) bool {
		twice := seen[name]
		seen[name] = true
		return twice
	}), nil
}

func newPolicy(name string, w *Workload, source *rand.Rand) (Policy, error) {
	for _, p := range policies {
		if p.name == name {
			return p.make(w, source)
		}
	}
	return nil, fmt.Errorf("policy %q: want one of %s", name, strings.Join(PolicyNames(), ", "))
}
