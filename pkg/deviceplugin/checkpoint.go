package deviceplugin

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"weft.sh/weft/pkg/slot"
)

// ErrCheckpoint is wrapped by errors for a checkpoint of the kubelet that has not the form that this package knows.
var ErrCheckpoint = errors.New("the kubelet's checkpoint of devices cannot be read")

// checkpointEntry is what one container has of one resource, as kubelets from 1.20 on write it. The checksum beside the entries
// is over the kubelet's own Go types and is not verified: the kubelet replaces the file as a whole, so it is never half written.
type checkpointEntry struct {
	PodUID        string
	ContainerName string
	ResourceName  string
	// DeviceIDs are by NUMA node, "-1" for devices without one; a device with several is under each.
	DeviceIDs map[string][]string
	// AllocResp is a marshalled ContainerAllocateResponse.
	AllocResp []byte
}

// parseCheckpoint reads who holds our resources from kubelet_internal_checkpoint, ordered by pod, container and resource. The
// error wraps ErrCheckpoint; the claims are not nil without one.
func parseCheckpoint(data []byte) ([]slot.Claim, error) {
	var file struct {
		// Raw, to tell a kubelet that has no entries and writes null from another form of the file.
		Data map[string]json.RawMessage
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	raw, ok := file.Data["PodDeviceEntries"]
	if !ok {
		return nil, fmt.Errorf("%w: it has no Data.PodDeviceEntries", ErrCheckpoint)
	}
	var entries []checkpointEntry
	if err := json.Unmarshal(raw, &entries); err != nil {
		return nil, fmt.Errorf("%w: PodDeviceEntries: %w", ErrCheckpoint, err)
	}
	claims := []slot.Claim{}
	for _, e := range entries {
		r, ok := ParseResourceName(e.ResourceName)
		if !ok {
			continue
		}
		c := slot.Claim{UID: e.PodUID, Container: e.ContainerName, Resource: r}
		for _, devices := range e.DeviceIDs {
			c.Slots = append(c.Slots, devices...)
		}
		slices.Sort(c.Slots)
		c.Slots = slices.Compact(c.Slots)
		if c.UID == "" || c.Container == "" || len(c.Slots) == 0 {
			return nil, fmt.Errorf("%w: entry of pod %q, container %q, %s: want a pod, a container and devices",
				ErrCheckpoint, e.PodUID, e.ContainerName, e.ResourceName)
		}
		var err error
		if c.Name, err = slotName(e.AllocResp); err != nil {
			return nil, fmt.Errorf("%w: entry of pod %q, container %q, %s: %w", ErrCheckpoint, e.PodUID, e.ContainerName, e.ResourceName, err)
		}
		claims = append(claims, c)
	}
	slices.SortFunc(claims, compareClaims)
	return claims, nil
}

// slotName is the name of our CDI device in what Allocate answered, empty when it answered none.
func slotName(response []byte) (string, error) {
	var answer pluginapi.ContainerAllocateResponse
	if err := proto.Unmarshal(response, &answer); err != nil {
		return "", fmt.Errorf("what Allocate answered: %w", err)
	}
	for _, d := range answer.GetCdiDevices() {
		if name, ok := strings.CutPrefix(d.GetName(), slot.CDIKind+"="); ok {
			return name, nil
		}
	}
	return "", nil
}

func compareClaims(a, b slot.Claim) int {
	return cmp.Or(cmp.Compare(a.UID, b.UID), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Pod, b.Pod),
		cmp.Compare(a.Container, b.Container), cmp.Compare(a.Resource.Kind, b.Resource.Kind), cmp.Compare(a.Resource.Profile, b.Resource.Profile),
		slices.Compare(a.Slots, b.Slots))
}
