package handout

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/pkg/parser"
	"tags.cncf.io/container-device-interface/specs-go"

	"weft.sh/weft/pkg/slot"
)

// Each CDI device is in a file of its own, with its name between these.
var filePrefix = strings.ReplaceAll(slot.CDIKind, "/", "-") + "-"

const fileSuffix = ".json"

// device is the qualified name of the record's CDI device.
func device(record string) string { return slot.CDIKind + "=" + record }

// file is where the record's specification is.
func (h *Handout) file(record string) string {
	return filepath.Join(h.options.CDIDir, filePrefix+record+fileSuffix)
}

// specification is the CDI specification of the record's device: what the hardware needs in the container, nil for nothing, and
// what is around it, which wins.
func specification(record string, hardware *specs.ContainerEdits, around slot.Surroundings) ([]byte, error) {
	var edits specs.ContainerEdits
	if hardware != nil {
		edits = *hardware
	}
	// What the caller has is left as it is.
	edits.Env = slices.DeleteFunc(slices.Clone(edits.Env), func(theirs string) bool {
		name, _, _ := strings.Cut(theirs, "=")
		return slices.ContainsFunc(around.Env, func(ours string) bool { return strings.HasPrefix(ours, name+"=") })
	})
	edits.Env = append(edits.Env, around.Env...)
	edits.Mounts = slices.DeleteFunc(slices.Clone(edits.Mounts), func(theirs *specs.Mount) bool {
		return slices.ContainsFunc(around.Mounts, func(ours slot.Mount) bool { return theirs.ContainerPath == ours.Container })
	})
	for _, m := range around.Mounts {
		edits.Mounts = append(edits.Mounts, &specs.Mount{
			HostPath: m.Host, ContainerPath: m.Container, Options: []string{"rbind", "rprivate", "rw", "nosuid", "nodev", "noexec"},
		})
	}
	if err := (&cdi.ContainerEdits{ContainerEdits: &edits}).Validate(); err != nil {
		return nil, err
	}
	if err := parser.ValidateDeviceName(record); err != nil {
		return nil, err
	}
	spec := &specs.Spec{Kind: slot.CDIKind, Devices: []specs.Device{{Name: record, ContainerEdits: edits}}}
	// The lowest version that has all of it: runtimes refuse what is newer than they are.
	version, err := specs.MinimumRequiredVersion(spec)
	if err != nil {
		return nil, err
	}
	spec.Version = version
	return json.MarshalIndent(spec, "", " ")
}

// specFiles is the names of our files in the folder of the specifications, finished or not.
func (h *Handout) specFiles() ([]string, error) {
	names, err := h.disk.List(h.options.CDIDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("looking for CDI specifications: %w", err)
	}
	return slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, filePrefix) }), nil
}

// removeSpec removes a file, if it is there.
func (h *Handout) removeSpec(path string) error {
	if err := h.disk.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing a CDI specification: %w", err)
	}
	return nil
}

// sweep removes our files that belong to no record: of what was released, and what a death has left half-written. h.mu must be held, so
// that nobody is writing one.
func (h *Handout) sweep() error {
	names, err := h.specFiles()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		record, finished := strings.CutSuffix(strings.TrimPrefix(name, filePrefix), fileSuffix)
		if _, ok := h.book.Find(record); finished && ok {
			continue
		}
		errs = append(errs, h.removeSpec(filepath.Join(h.options.CDIDir, name)))
	}
	return errors.Join(errs...)
}
