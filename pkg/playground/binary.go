package playground

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// EnvBin names a folder that holds the built binaries and is looked into first.
const EnvBin = "WEFT_BIN"

// ErrNoBinary is wrapped by the error of [FindBinary].
var ErrNoBinary = errors.New("binary not found")

// FindBinary finds one of the project's binaries: in $WEFT_BIN, beside the running executable, or in the bin folder of the
// repository that the working directory lies in.
func FindBinary(name string) (string, error) {
	var dirs []string
	if dir := os.Getenv(EnvBin); dir != "" {
		dirs = append(dirs, dir)
	} else {
		if exe, err := os.Executable(); err == nil {
			dirs = append(dirs, filepath.Dir(exe))
		}
		if root, err := RepositoryRoot(); err == nil {
			dirs = append(dirs, filepath.Join(root, "bin"))
		}
	}
	for _, dir := range dirs {
		path, err := filepath.Abs(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: %w in %s: run make build, or name its folder in $%s", name, ErrNoBinary, strings.Join(dirs, ", "), EnvBin)
}

// RepositoryRoot is the closest folder above the working directory that holds a go.mod.
func RepositoryRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no go.mod above the working directory")
		}
		dir = parent
	}
}
