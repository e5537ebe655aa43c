package nvmlfake

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"sigs.k8s.io/yaml"
)

// file is a description as YAML. For example a DGX H100 that has lost GPU 3, and whose GPU 4 is partitioned:
//
//	preset: dgx-h100
//	driverVersion: 615.12.04
//	set:
//	  "3": {lost: true}
//	  "4": {mig: {enabled: true, instances: [3g.40gb@0, 3g.40gb@4]}}
//	events:
//	- {gpu: 2, xid: 79}
type file struct {
	// Preset is a ready-made node that the rest changes.
	Preset string `json:"preset,omitempty"`
	Node
	// GPUs, in place of the preset's.
	GPUs []entry `json:"gpus,omitempty"`
	// Set changes single GPUs, by index.
	Set map[string]json.RawMessage `json:"set,omitempty"`
}

// entry is one GPU or several that are alike.
type entry struct {
	GPU
	Count *int `json:"count,omitempty"`
}

// Parse reads a description. What is unknown in it is an error.
func Parse(data []byte) (Node, error) {
	var which struct {
		Preset string `json:"preset"`
	}
	if err := yaml.Unmarshal(data, &which); err != nil {
		return Node{}, fmt.Errorf("description of a node: %w", err)
	}
	var f file
	if which.Preset != "" {
		preset, ok := Presets[which.Preset]
		if !ok {
			return Node{}, fmt.Errorf("description of a node: preset %q: there is none such", which.Preset)
		}
		f.Node = preset()
	}
	if err := yaml.UnmarshalStrict(data, &f); err != nil {
		return Node{}, fmt.Errorf("description of a node: %w", err)
	}
	n := f.Node
	if f.GPUs != nil {
		n.GPUs = nil
		for _, e := range f.GPUs {
			count := 1
			if e.Count != nil {
				count = *e.Count
			}
			if count < 0 || count > maxGPUs {
				return Node{}, fmt.Errorf("description of a node: count %d: want 0 to %d", count, maxGPUs)
			}
			n.GPUs = append(n.GPUs, slices.Repeat([]GPU{e.GPU}, count)...)
		}
	}
	for key, change := range f.Set {
		i, err := strconv.Atoi(key)
		if err != nil || i < 0 || i >= len(n.GPUs) {
			return Node{}, fmt.Errorf("description of a node: set: GPU %q: want 0 to %d", key, len(n.GPUs)-1)
		}
		// Into a copy of its own: GPUs of one entry share their lists.
		g, err := n.GPUs[i].copied()
		if err == nil {
			err = yaml.UnmarshalStrict(change, &g)
		}
		if err != nil {
			return Node{}, fmt.Errorf("description of a node: set: GPU %d: %w", i, err)
		}
		n.GPUs[i] = g
	}
	if err := n.Validate(); err != nil {
		return Node{}, fmt.Errorf("description of a node: %w", err)
	}
	return n, nil
}

func (g GPU) copied() (c GPU, err error) {
	data, err := json.Marshal(g)
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	return c, err
}

// Write writes the description to a file, at once for whoever reads it.
func (n Node) Write(path string) error {
	data, err := yaml.Marshal(n)
	if err != nil {
		return err
	}
	t, err := os.CreateTemp(filepath.Dir(path), ".nvmlfake-*")
	if err != nil {
		return err
	}
	_, err = t.Write(data)
	if err = errors.Join(err, t.Close()); err == nil {
		err = os.Rename(t.Name(), path)
	}
	if err != nil {
		_ = os.Remove(t.Name())
	}
	return err
}

// FromFile is the fake of the node that the file describes, in YAML, as it is at any time: when the file is written anew,
// what the fake answers changes. Write it by renaming, as [Node.Write] does. While what is there is no description, the last
// good one holds.
func FromFile(path string) (*Fake, error) {
	f := &Fake{path: path, wake: make(chan struct{})}
	if err := f.reread(); err != nil {
		return nil, err
	}
	return f, nil
}

// reread reads the file if it has changed. f is locked, or nobody else knows it.
func (f *Fake) reread() error {
	if f.path == "" {
		return nil
	}
	stat, err := os.Stat(f.path)
	if err != nil {
		return err
	}
	if f.stat != nil && os.SameFile(f.stat, stat) && f.stat.ModTime().Equal(stat.ModTime()) && f.stat.Size() == stat.Size() {
		return nil
	}
	data, err := os.ReadFile(f.path)
	if err != nil {
		return err
	}
	f.stat = stat
	n, err := Parse(data)
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	f.apply(n)
	return nil
}
