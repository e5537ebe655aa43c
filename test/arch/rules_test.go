package arch

import (
	"fmt"
	"slices"
	"strings"
)

const module = "weft.sh/weft"

// core says which core packages each core package may import, by their names under pkg/.
//
// The direction is {cache, fit, gang} -> cluster -> {mig, nvlink, quota} -> gpu. Within the top layer only gang sees
// another package: the planner of a whole gang decides each member by fit. cache and fit do not know each other, so that
// a decision never depends on how the state it was given came to be.
var core = map[string][]string{
	"gpu":     {},
	"mig":     {"gpu"},
	"nvlink":  {"gpu"},
	"quota":   {"gpu"},
	"cluster": {"gpu", "mig", "nvlink", "quota"},
	"fit":     {"gpu", "mig", "nvlink", "quota", "cluster", "potential"},
	"cache":   {"gpu", "mig", "nvlink", "quota", "cluster"},
	"gang":    {"gpu", "mig", "nvlink", "quota", "cluster", "fit"},
	// What a node is worth to the requests that are expected: strategies of fit rate by it, and it knows none of them.
	"potential": {"gpu"},
	// The node agent's half of the core: what it gives out and whether a GPU is fit to be. Neither sees how the scheduler decides.
	"slot":   {"gpu", "mig", "cluster"},
	"health": {"gpu"},
	// What will be wanted, and what to buy for it: it knows amounts, and nothing of nodes or requests.
	"forecast": {},
}

// coreTestLibraries are the modules that tests of the core may use. What ships from the core has no dependency at all.
var coreTestLibraries = []string{
	"github.com/google/go-cmp",
	"github.com/cockroachdb/datadriven",
}

// impureLibraries are the parts of the standard library that the core may not import, not even the harmless half of
// them: the core decides on values, and everything here is a way to the world outside or to a decision that differs
// from run to run.
var impureLibraries = map[string]string{
	"log":          "the core logs nothing; it returns reasons",
	"net":          "the core holds no client",
	"os":           "the core reads no file, environment or signal",
	"database/sql": "the core holds no client",
	"syscall":      "the core does not talk to the operating system",
	"flag":         "the core has no settings of its own; they are arguments",
	"expvar":       "the core exports no metrics; the shell does",
	"plugin":       "the core loads nothing",
	"C":            "the core has no cgo",
}

// impureNames are what the core may not mention of packages that it may import.
var impureNames = map[string]struct {
	names []string
	why   string
}{
	"time": {
		[]string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTicker", "NewTimer"},
		"the core reads no clock; time is an argument",
	},
	"fmt": {
		[]string{"Print", "Printf", "Println", "Scan", "Scanf", "Scanln"},
		"the core prints nothing; it returns values",
	},
	"context": {
		[]string{"WithDeadline", "WithDeadlineCause", "WithTimeout", "WithTimeoutCause"},
		"the core reads no clock; the caller's context may have a deadline",
	},
	"math/rand":    {globalRand, "the core is deterministic; a seeded source is an argument"},
	"math/rand/v2": {globalRand, "the core is deterministic; a seeded source is an argument"},
}

// globalRand are the functions of math/rand and of its v2 that draw from the process's own source.
var globalRand = []string{
	"ExpFloat64", "Float32", "Float64", "Int", "Int31", "Int31n", "Int32", "Int32N", "Int63", "Int63n", "Int64", "Int64N",
	"IntN", "Intn", "N", "NormFloat64", "Perm", "Read", "Seed", "Shuffle", "Uint", "Uint32", "Uint32N", "Uint64",
	"Uint64N", "UintN",
}

// confined says of a library which folders may import it: the folders themselves and what is under them.
var confined = []struct {
	library string
	only    []string
	why     string
}{
	{
		"k8s.io/kubernetes",
		[]string{"cmd", "pkg/compat", "pkg/playground", "pkg/plugins", "pkg/simulator", "test"},
		"it is the whole of Kubernetes, and no library: only what runs a scheduler or an API server may need it",
	},
	{
		"github.com/NVIDIA/go-nvml",
		[]string{"pkg/nvml"},
		"it needs cgo and a driver; pkg/nvml turns what it says into values",
	},
	{"modernc.org/sqlite", []string{"pkg/ledger"}, "nobody but the ledger knows which database it is in"},
	{"github.com/jackc/pgx", []string{"pkg/ledger"}, "nobody but the ledger knows which database it is in"},
	{"github.com/pressly/goose", []string{"pkg/ledger"}, "nobody but the ledger knows which database it is in"},
}

// layers are the adapters and what stands on them, from the bottom. A package may not import one of a higher layer;
// within a layer imports are free. A package that is not listed is not checked.
var layers = [][]string{
	{"apis", "inventory", "ledger", "metrics", "nvml", "podgroup", "podspec", "trace"},
	{"compat", "controller", "deviceplugin", "dra", "handout", "metering", "playground", "plugins", "simulator"},
	{"cli", "nodeagent"},
}

// vagueNames are names that say nothing about what a package holds, so that everything ends up in it.
var vagueNames = []string{
	"util", "utils", "common", "helper", "helpers", "type", "types", "core", "manager", "managers", "misc",
}

// coreOf returns the core package that a folder belongs to, and "" where it is not of the core. What is under a core
// package has to keep its rules.
func coreOf(dir string) string {
	name := underPkg(dir)
	if _, ok := core[name]; ok {
		return name
	}
	return ""
}

// layerOf returns the index in layers of a folder, and -1 where it has none.
func layerOf(dir string) int {
	return slices.IndexFunc(layers, func(names []string) bool { return slices.Contains(names, underPkg(dir)) })
}

// underPkg returns the first element of dir below pkg/, and "" where dir lies elsewhere.
func underPkg(dir string) string {
	rest, ok := strings.CutPrefix(dir, "pkg/")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, "/")
	return name
}

// within reports whether name is parent or below it, where both are slash-separated.
func within(name, parent string) bool {
	return name == parent || strings.HasPrefix(name, parent+"/")
}

// isStandard reports whether an import path is of the standard library: its first element has no dot.
func isStandard(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return !strings.Contains(first, ".") && !within(imported, module)
}

// checkImport returns why dir may not import the path imported, and "" where it may.
func checkImport(dir, imported string, isTest bool) string {
	for _, c := range confined {
		if !within(imported, c.library) || slices.ContainsFunc(c.only, func(d string) bool { return within(dir, d) }) {
			continue
		}
		return fmt.Sprintf("only %s may import %s: %s", strings.Join(c.only, ", "), c.library, c.why)
	}
	target, ours := strings.CutPrefix(imported, module+"/")
	if ours && within(dir, "pkg") {
		if within(target, "cmd") {
			return "nothing under pkg imports cmd: a command is the end of the line"
		}
		if within(target, "test") {
			return "nothing under pkg imports test: what ships does not hang on a test"
		}
		if from, to := layerOf(dir), layerOf(target); from >= 0 && to > from {
			return fmt.Sprintf("pkg/%s lies below pkg/%s: imports go cmd -> cli -> plugins and the like -> adapters -> core",
				underPkg(dir), underPkg(target))
		}
	}
	if name := coreOf(dir); name != "" {
		return checkCoreImport(name, imported, isTest)
	}
	return ""
}

// checkCoreImport is checkImport for the core package with the given name.
func checkCoreImport(name, imported string, isTest bool) string {
	if isStandard(imported) {
		for library, why := range impureLibraries {
			if within(imported, library) && !isTest {
				return why
			}
		}
		return ""
	}
	target, ours := strings.CutPrefix(imported, module+"/")
	if !ours {
		if isTest && slices.ContainsFunc(coreTestLibraries, func(l string) bool { return within(imported, l) }) {
			return ""
		}
		return "the core imports only the standard library and itself"
	}
	to := coreOf(target)
	switch {
	case to == "":
		return "the core knows no adapter: it imports only the standard library and itself"
	case to == name || isTest || slices.Contains(core[name], to):
		// A test may look at the whole core: it may well check a low package against what a high one makes of it, and the
		// compiler refuses a cycle.
		return ""
	}
	return fmt.Sprintf("pkg/%s may import of the core only %v: {cache, fit, gang} -> cluster -> {mig, nvlink, quota} -> gpu",
		name, core[name])
}

// checkName returns what is wrong with the name of a package or of one of the folders on the way to it.
func checkName(dir, packageName string) string {
	names := append(strings.Split(dir, "/"), strings.TrimSuffix(packageName, "_test"))
	for _, name := range names {
		if slices.Contains(vagueNames, name) {
			return fmt.Sprintf("%q says nothing about what is in the package: name it after what it holds", name)
		}
	}
	return ""
}
