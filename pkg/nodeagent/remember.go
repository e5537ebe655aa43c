package nodeagent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/health"
	"weft.sh/weft/pkg/nvml"
)

// card is one GPU as it was when NVML last told everything of it. Whether it is healthy stands elsewhere.
type card struct {
	gpu.Device
	// TotalMemoryMiB and MIGCapable are as in [nvml.GPU]; only labels say so.
	TotalMemoryMiB int64
	MIGCapable     bool
}

// cardsOf is the GPUs of the host as cards.
func cardsOf(host nvml.Host) []card {
	out := make([]card, len(host.GPUs))
	for i, g := range host.GPUs {
		d := g.Device
		d.Unhealthy, d.UnhealthyReason = false, ""
		if h := d.Hardware; h != nil {
			with := *h
			with.DriverVersion, with.CUDAVersion = host.DriverVersion, host.CUDAVersion
			d.Hardware = &with
			if d.Validate() != nil { // versions that are none
				d.Hardware = h
			}
		}
		out[i] = card{d, g.TotalMemoryMiB, g.MIGCapable}
	}
	return out
}

// memoryVersion is the version of the file of a [memory]. A file of another version is not read: it only says which GPUs are missing.
const memoryVersion = 1

// remembered is what a [memory] has.
type remembered struct {
	GPUs []card `json:"gpus"`
	// Failures are those that a look does not find again.
	Failures map[gpu.ID]health.State `json:"failures,omitempty"`
}

// memory is a file that lists the GPUs which the node had since it was booted, so that one that does not come back is known to be
// missing, also to an agent that was started after it was lost, and how they failed. Removing the file makes an agent that starts forget them.
type memory struct {
	path, bootID string
}

type memoryFile struct {
	Version int    `json:"version"`
	BootID  string `json:"bootID"`
	remembered
}

// load is what the file has, nothing when it is of an earlier boot or there is no such file.
func (m memory) load() (none remembered, _ error) {
	data, err := os.ReadFile(m.path)
	if errors.Is(err, fs.ErrNotExist) {
		return none, nil
	}
	if err != nil {
		return none, err
	}
	var f memoryFile
	if err := json.Unmarshal(data, &f); err != nil {
		return none, fmt.Errorf("%s: %w", m.path, err)
	}
	if f.Version != memoryVersion {
		return none, fmt.Errorf("%s: version is %d: want %d", m.path, f.Version, memoryVersion)
	}
	if f.BootID != m.bootID || m.bootID == "" {
		return none, nil
	}
	for _, c := range f.GPUs {
		if err := c.Validate(); err != nil {
			return none, fmt.Errorf("%s: %w", m.path, err)
		}
	}
	return f.remembered, nil
}

// save writes the file anew.
func (m memory) save(r remembered) error {
	data, err := json.MarshalIndent(memoryFile{memoryVersion, m.bootID, r}, "", " ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(m.path), filepath.Base(m.path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), m.path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// bootID is different for every boot of the node, empty where the system does not tell.
func bootID() string {
	data, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data))
}

// merge is the GPUs that the node has and had, by index: found are there, and of the old ones those that are not keep their place. One
// whose index another GPU has got since has the first that is free after all others.
func merge(old, found []card) []card {
	out := slices.Clone(found)
	taken, last := map[int]bool{}, -1
	for _, c := range slices.Concat(old, found) {
		last = max(last, c.Index)
	}
	for _, c := range found {
		taken[c.Index] = true
	}
	for _, c := range old {
		if slices.ContainsFunc(found, func(f card) bool { return f.ID == c.ID }) {
			continue
		}
		if taken[c.Index] {
			last++
			c.Index = last
		}
		taken[c.Index] = true
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b card) int { return a.Index - b.Index })
	return out
}
