package arch

import (
	"strings"
	"testing"
	"testing/fstest"
)

func TestEachRule(t *testing.T) {
	tests := map[string]struct {
		file   string
		source string
		want   []string // A part of each violation, in order; none where the tree is fine.
	}{
		"a core package may use the standard library": {
			"pkg/gpu/a.go", `package gpu; import ("fmt"; "time"); var _ = fmt.Sprint(time.Second)`, nil,
		},
		"a core package may import a lower one": {
			"pkg/fit/a.go", `package fit; import _ "weft.sh/weft/pkg/cluster"`, nil,
		},
		"gang may import fit": {
			"pkg/gang/a.go", `package gang; import _ "weft.sh/weft/pkg/fit"`, nil,
		},
		"a core package may not import a library": {
			"pkg/gpu/a.go", `package gpu; import _ "k8s.io/api/core/v1"`,
			[]string{"import k8s.io/api/core/v1: the core imports only"},
		},
		"what is under a core package keeps its rules": {
			"pkg/gpu/parse/a.go", `package parse; import _ "github.com/google/go-cmp/cmp"`,
			[]string{"the core imports only the standard library and itself"},
		},
		"a core package may not import an adapter": {
			"pkg/cache/a.go", `package cache; import _ "weft.sh/weft/pkg/inventory"`,
			[]string{"the core knows no adapter"},
		},
		"a core package may not import a higher one": {
			"pkg/mig/a.go", `package mig; import _ "weft.sh/weft/pkg/cluster"`,
			[]string{"pkg/mig may import of the core only [gpu]"},
		},
		"a core package may not import one beside it": {
			"pkg/quota/a.go", `package quota; import _ "weft.sh/weft/pkg/nvlink"`,
			[]string{"pkg/quota may import of the core only [gpu]"},
		},
		"gpu imports nothing": {
			"pkg/gpu/a.go", `package gpu; import _ "weft.sh/weft/pkg/mig"`,
			[]string{"pkg/gpu may import of the core only []"},
		},
		"cache does not import fit": {
			"pkg/cache/a.go", `package cache; import _ "weft.sh/weft/pkg/fit"`,
			[]string{"pkg/cache may import of the core only"},
		},
		"fit does not import cache": {
			"pkg/fit/a.go", `package fit; import _ "weft.sh/weft/pkg/cache"`,
			[]string{"pkg/fit may import of the core only"},
		},
		"fit does not import gang": {
			"pkg/fit/a.go", `package fit; import _ "weft.sh/weft/pkg/gang"`,
			[]string{"pkg/fit may import of the core only"},
		},
		"a file for another platform counts": {
			"pkg/gpu/a_windows.go", "//go:build windows\n\npackage gpu; import _ \"weft.sh/weft/pkg/mig\"",
			[]string{"pkg/gpu may import of the core only []"},
		},
		"a test of the core may use cmp, files and the whole core": {
			"pkg/mig/a_test.go",
			`package mig_test; import (_ "os"; _ "github.com/google/go-cmp/cmp"; _ "weft.sh/weft/pkg/cluster")`, nil,
		},
		"a test of the core may not use Kubernetes": {
			"pkg/mig/a_test.go", `package mig; import _ "k8s.io/apimachinery/pkg/util/sets"`,
			[]string{"the core imports only the standard library and itself"},
		},
		"a core package may not log": {
			"pkg/cache/a.go", `package cache; import (_ "log"; _ "log/slog")`,
			[]string{"import log: the core logs nothing", "import log/slog: the core logs nothing"},
		},
		"a core package may not hold a client": {
			"pkg/cache/a.go", `package cache; import _ "net/http"`,
			[]string{"import net/http: the core holds no client"},
		},
		"a core package may not read the clock": {
			"pkg/quota/a.go", `package quota; import "time"; func f() { _ = time.Now(); time.Sleep(1) }`,
			[]string{"time.Now: the core reads no clock", "time.Sleep: the core reads no clock"},
		},
		"a core package may not keep the clock as a value, nor rename it": {
			"pkg/quota/a.go", `package quota; import t "time"; var now = t.Now`,
			[]string{"t.Now: the core reads no clock"},
		},
		"a core package may not import the clock's names": {
			"pkg/quota/a.go", `package quota; import . "time"; var now = Now`,
			[]string{"import . time: its names could not be told"},
		},
		"a variable with the name of a package is not the package": {
			"pkg/quota/a.go", `package quota; import _ "time"; func f(time struct{ Now int }) int { return time.Now }`, nil,
		},
		"a test of the core may read the clock": {
			"pkg/quota/a_test.go", `package quota; import "time"; var start = time.Now()`, nil,
		},
		"a core package may not print": {
			"pkg/gang/a.go", `package gang; import "fmt"; func f() { fmt.Println(); fmt.Printf(""); fmt.Print(); println() }`,
			[]string{"fmt.Println: the core prints nothing", "fmt.Printf:", "fmt.Print:", "println:"},
		},
		"a core package may not roll the process's dice": {
			"pkg/fit/a.go", `package fit; import "math/rand/v2"; func f(r *rand.Rand) int { return r.IntN(2) + rand.IntN(2) }`,
			[]string{"rand.IntN: the core is deterministic"},
		},
		"an adapter may read the clock and log": {
			"pkg/ledger/a.go", `package ledger; import ("log"; "time"); func f() { log.Print(time.Now()) }`, nil,
		},
		"nothing under pkg imports cmd": {
			"pkg/cli/a.go", `package cli; import _ "weft.sh/weft/cmd/weft/app"`,
			[]string{"nothing under pkg imports cmd"},
		},
		"nothing under pkg imports test, tests included": {
			"pkg/plugins/gang/a_test.go", `package gang; import _ "weft.sh/weft/test/integration"`,
			[]string{"nothing under pkg imports test"},
		},
		"a plugin may import Kubernetes": {
			"pkg/plugins/gpufit/a.go", `package gpufit; import _ "k8s.io/kubernetes/pkg/scheduler"`, nil,
		},
		"commands and tests may import Kubernetes": {
			"cmd/weft-scheduler/main.go", `package main; import _ "k8s.io/kubernetes/cmd/kube-scheduler/app"`, nil,
		},
		"an adapter may not import Kubernetes, its tests neither": {
			"pkg/controller/a_test.go", `package controller; import _ "k8s.io/kubernetes/pkg/scheduler"`,
			[]string{"only cmd, pkg/compat, pkg/playground, pkg/plugins, pkg/simulator, test may import k8s.io/kubernetes"},
		},
		"a name that begins with a permitted one is not permitted": {
			"pkg/pluginset/a.go", `package pluginset; import _ "k8s.io/kubernetes/pkg/scheduler"`,
			[]string{"may import k8s.io/kubernetes"},
		},
		"the staging libraries are free": {
			"pkg/controller/a.go", `package controller; import _ "k8s.io/client-go/kubernetes"`, nil,
		},
		"nvml may import go-nvml": {
			"pkg/nvml/a.go", `package nvml; import _ "github.com/NVIDIA/go-nvml/pkg/nvml"`, nil,
		},
		"the ledger may import a database": {
			"pkg/ledger/ledgertest/a.go", `package ledgertest; import _ "github.com/jackc/pgx/v5"`, nil,
		},
		"nobody else may import a database": {
			"pkg/controller/a.go", `package controller; import _ "modernc.org/sqlite"`,
			[]string{"only pkg/ledger may import modernc.org/sqlite"},
		},
		"nobody else may import go-nvml": {
			"pkg/deviceplugin/a.go", `package deviceplugin; import _ "github.com/NVIDIA/go-nvml/pkg/nvml"`,
			[]string{"only pkg/nvml may import github.com/NVIDIA/go-nvml"},
		},
		"an adapter may not import what stands on it": {
			"pkg/podspec/a.go", `package podspec; import _ "weft.sh/weft/pkg/plugins/gang"`,
			[]string{"pkg/podspec lies below pkg/plugins"},
		},
		"the simulator may run the plugins, and the command line the simulator": {
			"pkg/cli/a.go", `package cli; import (_ "weft.sh/weft/pkg/simulator"; _ "weft.sh/weft/pkg/gpu")`, nil,
		},
		"a package may not have a vague name": {
			"pkg/inventory/a.go", `package util`,
			[]string{`package util: "util" says nothing`},
		},
		"a folder may not have a vague name, with or without a package in it": {
			"pkg/common/labels/a.go", `package labels`,
			[]string{`package labels: "common" says nothing`},
		},
		"the test of a package with a vague name counts": {
			"test/a_test.go", `package helpers_test`,
			[]string{`package helpers_test: "helpers" says nothing`},
		},
		"other modules, vendor and testdata are not ours": {
			"vendor/x/util/a.go", `package util`, nil,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			tree := fstest.MapFS{
				tc.file:                       {Data: []byte(tc.source)},
				"hack/tools/go.mod":           {Data: []byte("module tools")},
				"hack/tools/util/a.go":        {Data: []byte("package util")},
				"pkg/mig/testdata/util/a.go":  {Data: []byte("package util")},
				"_output/compat/util/a.go":    {Data: []byte("package util")},
				"pkg/gpu/doc.go":              {Data: []byte("package gpu")},
				"cmd/weft/main.go":            {Data: []byte("package main")},
				"test/integration/a_test.go":  {Data: []byte("package integration")},
				"pkg/apis/config/v1/types.go": {Data: []byte("package v1")},
			}
			got, _, err := check(tree)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(tc.want) {
				t.Fatalf("got %d violations, want %d:\n%s", len(got), len(tc.want), strings.Join(got, "\n"))
			}
			for i, want := range tc.want {
				if !strings.HasPrefix(got[i], tc.file+":") || !strings.Contains(got[i], want) {
					t.Errorf("violation %d is %q, want one of %s with %q", i, got[i], tc.file, want)
				}
			}
		})
	}
}

// The table of the core is written by hand; here is what has to be true of it whatever it says.
func TestCoreHasNoCycle(t *testing.T) {
	var visit func(name string, trail []string)
	visit = func(name string, trail []string) {
		for _, imported := range core[name] {
			if _, ok := core[imported]; !ok {
				t.Errorf("%s may import %s, which is not of the core", name, imported)
			}
			if imported == name || len(trail) > len(core) {
				t.Fatalf("the core has a cycle: %v", append(trail, name, imported))
			}
			visit(imported, append(trail, name))
		}
	}
	for name := range core {
		visit(name, nil)
	}
}
