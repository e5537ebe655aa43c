package inventory

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"weft.sh/weft/pkg/gpu"
)

// attributes reads a device; the first thing missing or of the wrong type is kept in err.
type attributes struct {
	device *resourceapi.Device
	err    error
}

func (a *attributes) get(name string, required bool) (resourceapi.DeviceAttribute, bool) {
	v, ok := a.device.Attributes[resourceapi.QualifiedName(name)]
	if !ok {
		v, ok = a.device.Attributes[resourceapi.QualifiedName(Driver+"/"+name)] // the same name, written out
	}
	if !ok && required {
		a.fail(name, "is missing")
	}
	return v, ok
}

func (a *attributes) fail(name, how string) {
	if a.err == nil {
		a.err = fmt.Errorf("attribute %s %s", name, how)
	}
}

func (a *attributes) string(name string) string {
	v, ok := a.get(name, true)
	if ok && v.StringValue == nil {
		a.fail(name, "is not a string")
	}
	if v.StringValue == nil {
		return ""
	}
	return *v.StringValue
}

// optional is a string that may be missing, empty then.
func (a *attributes) optional(name string) string {
	if _, ok := a.get(name, false); !ok {
		return ""
	}
	return a.string(name)
}

// version is a version without the zeros that [versionOf] added, so that it has so many parts where that is what was published;
// empty when it is missing.
func (a *attributes) version(name string, parts int) string {
	v, ok := a.get(name, false)
	if !ok {
		return ""
	}
	if v.VersionValue == nil {
		a.fail(name, "is not a version")
		return ""
	}
	version := *v.VersionValue
	for strings.Count(version, ".") >= parts && strings.HasSuffix(version, ".0") {
		version = strings.TrimSuffix(version, ".0")
	}
	return version
}

func (a *attributes) intOr(name string, otherwise int) int {
	if _, ok := a.get(name, false); !ok {
		return otherwise
	}
	return a.int(name)
}

// hardware is nil when nothing is said of it.
func (a *attributes) hardware() *gpu.Hardware {
	h := &gpu.Hardware{
		PCIBusID: a.optional(attrPCIBusID), NUMANode: a.intOr(attrNUMANode, -1), Architecture: a.optional(attrArchitecture),
		ComputeCapability: a.version(attrCapability, 2), DriverVersion: a.version(attrDriver, 3), CUDAVersion: a.version(attrCUDA, 2),
		Links:  gpu.Links{Switch: a.intOr(attrSwitchLinks, 0), Peers: a.peers()},
		Clique: a.optional(attrClique),
	}
	if h.Equal(nil) {
		return nil
	}
	return h
}

// peers reads what [peersText] writes.
func (a *attributes) peers() []gpu.Peer {
	text := a.optional(attrPeerLinks)
	if text == "" {
		return nil
	}
	var out []gpu.Peer
	for part := range strings.SplitSeq(text, ",") {
		index, links, _ := strings.Cut(part, ":")
		// What is no number becomes 0, and then does not print back the same.
		var p gpu.Peer
		p.Index, _ = strconv.Atoi(index)
		p.Links, _ = strconv.Atoi(links)
		out = append(out, p)
	}
	if peersText(out) != text {
		a.fail(attrPeerLinks, fmt.Sprintf("is %q: want index:links of each GPU, such as 1:4,3:2", text))
		return nil
	}
	return out
}

func (a *attributes) int(name string) int {
	v, ok := a.get(name, true)
	switch {
	case !ok:
		return 0
	case v.IntValue == nil:
		a.fail(name, "is not an int")
		return 0
	case *v.IntValue < 0 || *v.IntValue > gpu.MaxIndex:
		a.fail(name, fmt.Sprintf("is %d: want 0 or more, and no more than any node has", *v.IntValue))
		return 0
	}
	return int(*v.IntValue)
}

func (a *attributes) bool(name string, otherwise bool) bool {
	v, ok := a.get(name, false)
	if !ok {
		return otherwise
	}
	if v.BoolValue == nil {
		a.fail(name, "is not a bool")
		return otherwise
	}
	return *v.BoolValue
}

func (a *attributes) memoryMiB() int64 {
	c, ok := a.device.Capacity[capMemory]
	if !ok {
		c, ok = a.device.Capacity[Driver+"/"+capMemory]
	}
	switch {
	case a.err != nil:
	case !ok:
		a.err = errors.New("capacity memory is missing")
	case c.Value.Cmp(*resource.NewQuantity(gpu.MaxMemoryMiB*mebibyte, resource.BinarySI)) > 0:
		a.err = fmt.Errorf("capacity memory is %s: want what a GPU can have", c.Value.String())
	}
	return c.Value.Value() / mebibyte
}
