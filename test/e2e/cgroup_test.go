//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// cgroupRoots are the folders of all cgroup hierarchies: several with cgroup v1, one with v2.
func cgroupRoots() ([]string, error) {
	const root = "/sys/fs/cgroup"
	if _, err := os.Stat(root + "/cgroup.controllers"); err == nil {
		return []string{root}, nil
	}
	procs, err := filepath.Glob(root + "/*/cgroup.procs")
	if err != nil {
		return nil, err
	}
	if len(procs) == 0 {
		return nil, fmt.Errorf("no cgroups are mounted below %s", root)
	}
	var roots []string
	for _, p := range procs {
		roots = append(roots, filepath.Dir(p))
	}
	return roots, nil
}

// makeCgroups makes the cgroup below which the kubelet puts all pods, in every hierarchy.
func makeCgroups(name string) error {
	roots, err := cgroupRoots()
	if err != nil {
		return err
	}
	for _, root := range roots {
		// Where controllers share a hierarchy, each has a link to it.
		if err := os.MkdirAll(root+name, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// sweepCgroups removes what a run has left that was killed itself: the cgroups named prefix and a process that is no more.
func sweepCgroups(prefix string) error {
	roots, err := cgroupRoots()
	if err != nil {
		return err
	}
	for _, root := range roots {
		left, err := filepath.Glob(root + prefix + "*")
		if err != nil {
			return err
		}
		for _, dir := range left {
			name := strings.TrimPrefix(dir, root)
			pid, err := strconv.Atoi(strings.TrimPrefix(name, prefix))
			if err != nil || !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
				continue
			}
			if err := removeCgroups(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeCgroups removes the cgroup and all below it. No process may be left in them.
func removeCgroups(name string) error {
	all, err := cgroupsBelow(name)
	if err != nil {
		return err
	}
	var errs []error
	for i := len(all) - 1; i >= 0; i-- {
		if err := os.Remove(all[i]); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// cgroupsBelow are the folders of the cgroup and of all below it, in every hierarchy, parents first.
func cgroupsBelow(name string) (dirs []string, err error) {
	roots, err := cgroupRoots()
	if err != nil {
		return nil, err
	}
	for _, root := range roots {
		err := filepath.WalkDir(root+name, func(path string, d fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist):
				// It ends while we look.
				return nil
			case err == nil && d.IsDir():
				dirs = append(dirs, path)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return dirs, nil
}

// inCgroups are the processes in the cgroups, of those of all pods, whose folder has the name; "" is every name.
func inCgroups(name string) (map[int]bool, error) {
	dirs, err := cgroupsBelow(os.Getenv(envCgroup))
	if err != nil {
		return nil, err
	}
	pids := map[int]bool{}
	for _, dir := range dirs {
		if name != "" && filepath.Base(dir) != name {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for field := range strings.FieldsSeq(string(data)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", dir, err)
			}
			pids[pid] = true
		}
	}
	return pids, nil
}
