package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestRepositoryKeepsTheRules(t *testing.T) {
	root := os.DirFS("../..")
	violations, files, err := check(root)
	if err != nil {
		t.Fatal(err)
	}
	// A check that looks at the wrong folder finds nothing to complain about.
	for _, want := range []string{"test/arch/imports_test.go", "pkg/gpu/doc.go"} {
		if !slices.Contains(files, want) {
			t.Errorf("the check did not see %s among the %d files that it read", want, len(files))
		}
	}
	for _, v := range violations {
		t.Error(v)
	}
}

// check reads every Go file under root, the root of the module, and returns what breaks the rules and which files it
// read, both in the order of their paths.
func check(root fs.FS) (violations, files []string, err error) {
	err = fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if name != "." && !hasPackages(root, name) {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(name) != ".go" {
			return nil
		}
		source, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		found, err := checkFile(name, source)
		if err != nil {
			return err
		}
		files = append(files, name)
		violations = append(violations, found...)
		return nil
	})
	return violations, files, err
}

// hasPackages reports whether the folder can hold packages of this module, by the rules of the go command.
func hasPackages(root fs.FS, dir string) bool {
	base := path.Base(dir)
	if base == "testdata" || dir == "vendor" || dir == "bin" || base[0] == '.' || base[0] == '_' {
		return false
	}
	_, err := fs.Stat(root, path.Join(dir, "go.mod"))
	return err != nil // With a go.mod it is a module of its own.
}

// checkFile returns what breaks the rules in one file, as "file:line: what: why".
func checkFile(name string, source []byte) ([]string, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, source, 0)
	if err != nil {
		return nil, err
	}
	var violations []string
	report := func(pos token.Pos, what, why string) {
		violations = append(violations, fmt.Sprintf("%s:%d: %s: %s", name, fset.Position(pos).Line, what, why))
	}

	dir, isTest := path.Dir(name), strings.HasSuffix(name, "_test.go")
	if why := checkName(dir, file.Name.Name); why != "" {
		report(file.Name.Pos(), "package "+file.Name.Name, why)
	}
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, err
		}
		if why := checkImport(dir, imported, isTest); why != "" {
			report(spec.Pos(), "import "+imported, why)
		}
	}
	if coreOf(dir) != "" && !isTest {
		checkPurity(file, report)
	}
	return violations, nil
}

// checkPurity reports every mention of a name that the core may not use. A mention is enough, for `now := time.Now`
// reads the clock as much as a call does.
func checkPurity(file *ast.File, report func(pos token.Pos, what, why string)) {
	imports := map[string]string{} // The name in this file, to the import path.
	for _, spec := range file.Imports {
		imported, _ := strconv.Unquote(spec.Path.Value)
		if _, ok := impureNames[imported]; !ok {
			continue
		}
		local := path.Base(strings.TrimSuffix(imported, "/v2"))
		if spec.Name != nil {
			local = spec.Name.Name
		}
		if local == "." {
			report(spec.Pos(), "import . "+imported, "its names could not be told from the package's own")
		}
		imports[local] = imported
	}
	ast.Inspect(file, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.SelectorExpr:
			// The parser links a name to what declares it in the file; what an import declares it leaves unlinked.
			ident, ok := node.X.(*ast.Ident)
			if !ok || ident.Obj != nil {
				return true
			}
			impure := impureNames[imports[ident.Name]]
			if slices.Contains(impure.names, node.Sel.Name) {
				report(node.Pos(), ident.Name+"."+node.Sel.Name, impure.why)
			}
		case *ast.CallExpr:
			ident, ok := node.Fun.(*ast.Ident)
			if ok && ident.Obj == nil && (ident.Name == "print" || ident.Name == "println") {
				report(node.Pos(), ident.Name, impureNames["fmt"].why)
			}
		}
		return true
	})
}
