package inventory

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"weft.sh/weft/pkg/gpu"
)

// TaintKey is that of the taint which every published device carries, so that no ResourceClaim is given what the node's device
// plugin hands out. The API server of a cluster without device taints drops it; nothing here depends on it.
const TaintKey = Driver + "/device-plugin"

// maxDevicesPerSlice is the API's limit for devices that carry taints.
const maxDevicesPerSlice = resourceapi.ResourceSliceMaxDevicesWithAdvancedFeatures

// Slices is the devices of a node as ResourceSlices of one generation, owned by nobody: the caller sets owner references.
func Slices(nodeName string, devices []gpu.Device, generation int64) []*resourceapi.ResourceSlice {
	chunks := Devices(devices)
	out := make([]*resourceapi.ResourceSlice, len(chunks))
	for i, chunk := range chunks {
		out[i] = &resourceapi.ResourceSlice{
			ObjectMeta: metav1.ObjectMeta{Name: sliceName(nodeName, i)},
			Spec: resourceapi.ResourceSliceSpec{
				Driver:   Driver,
				NodeName: &nodeName,
				Pool:     resourceapi.ResourcePool{Name: nodeName, Generation: generation, ResourceSliceCount: int64(len(chunks))},
				Devices:  chunk,
			},
		}
	}
	return out
}

// sliceName is the name of a node's slice i. Of a node whose name leaves no room for more it has the beginning, and a hash of
// all of it.
func sliceName(nodeName string, i int) string {
	suffix := fmt.Sprintf("-%s-%d", Driver, i)
	if room := validation.DNS1123SubdomainMaxLength - len(suffix); len(nodeName) > room {
		hash := fmt.Sprintf("%x", sha256.Sum256([]byte(nodeName)))[:16]
		nodeName = strings.TrimRight(nodeName[:room-len(hash)-1], "-.") + "-" + hash
	}
	return nodeName + suffix
}

// Devices is the devices of a node as they are published, cut up for one slice each; at least one slice, for an empty pool
// says that the node has no GPU, now. A GPU stands in the same slice as its MIG instances where they fit into one.
func Devices(devices []gpu.Device) [][]resourceapi.Device {
	chunks := make([][]resourceapi.Device, 1)
	for _, d := range devices {
		group := published(d)
		if room := maxDevicesPerSlice - len(chunks[len(chunks)-1]); len(group) > room && room < maxDevicesPerSlice {
			chunks = append(chunks, nil)
		}
		for part := range slices.Chunk(group, maxDevicesPerSlice) {
			last := len(chunks) - 1
			if len(chunks[last])+len(part) > maxDevicesPerSlice {
				chunks = append(chunks, nil)
				last++
			}
			chunks[last] = append(chunks[last], part...)
		}
	}
	return chunks
}

// published is the GPU and its MIG instances.
func published(d gpu.Device) []resourceapi.Device {
	attrs := map[resourceapi.QualifiedName]resourceapi.DeviceAttribute{
		attrType: str(typeGPU), attrUUID: str(string(d.ID)), attrIndex: integer(d.Index), attrProduct: str(d.Product),
	}
	flag := func(name resourceapi.QualifiedName, is, value bool) {
		if is {
			attrs[name] = boolean(value)
		}
	}
	flag(attrHealthy, d.Unhealthy, false)
	flag(attrWholeOnly, d.WholeOnly, true)
	flag(attrSharedOnly, d.SharedOnly, true)
	flag(attrMIGMode, d.MIG, true)
	text := func(name resourceapi.QualifiedName, value string) {
		if value != "" && len(value) <= resourceapi.DeviceAttributeMaxValueLength {
			attrs[name] = str(value)
		}
	}
	if d.Unhealthy {
		text(attrReason, shortened(d.UnhealthyReason))
	}
	text(attrIsolation, string(d.Isolation))
	if h := d.Hardware; h != nil {
		text(attrPCIBusID, h.PCIBusID)
		text(attrArchitecture, h.Architecture)
		text(attrPeerLinks, peersText(h.Links.Peers))
		text(attrClique, h.Clique)
		if h.NUMANode >= 0 {
			attrs[attrNUMANode] = integer(h.NUMANode)
		}
		if h.Links.Switch > 0 {
			attrs[attrSwitchLinks] = integer(h.Links.Switch)
		}
		for name, value := range map[resourceapi.QualifiedName]string{
			attrCapability: h.ComputeCapability, attrDriver: h.DriverVersion, attrCUDA: h.CUDAVersion,
		} {
			if version, ok := versionOf(value); ok {
				attrs[name] = resourceapi.DeviceAttribute{VersionValue: &version}
			}
		}
	}
	taints := []resourceapi.DeviceTaint{{Key: TaintKey, Effect: resourceapi.DeviceTaintEffectNoSchedule}}
	out := []resourceapi.Device{{
		Name:       fmt.Sprintf("gpu-%d", d.Index),
		Attributes: attrs,
		Capacity: map[resourceapi.QualifiedName]resourceapi.DeviceCapacity{
			capMemory: {Value: *resource.NewQuantity(d.MemoryMiB*mebibyte, resource.BinarySI)},
		},
		Taints: taints,
	}}
	for k, i := range d.Instances {
		if slices.Contains(d.Instances[:k], i) {
			continue
		}
		out = append(out, resourceapi.Device{
			Name: fmt.Sprintf("gpu-%d-%s-%d-%d", d.Index, profileInName.Replace(i.Profile), i.Start, i.Size),
			Attributes: map[resourceapi.QualifiedName]resourceapi.DeviceAttribute{
				attrType: str(typeMIG), attrParentUUID: str(string(d.ID)), attrProfile: str(i.Profile),
				attrStart: integer(i.Start), attrSize: integer(i.Size),
			},
			Taints: slices.Clone(taints),
		})
	}
	return out
}

// profileInName writes a profile as a part of a DNS label, every profile differently: there are 1g.24gb+me and 1g.24gb-me.
var profileInName = strings.NewReplacer(".", "-", "-", "--", "+", "---")

// shortened is the text as far as an attribute has room for it.
func shortened(text string) string {
	const ellipsis = "…"
	if len(text) <= resourceapi.DeviceAttributeMaxValueLength {
		return text
	}
	end := resourceapi.DeviceAttributeMaxValueLength - len(ellipsis)
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + ellipsis
}

// peersText is "1:4,3:2" for four links to GPU 1 and two to GPU 3.
func peersText(peers []gpu.Peer) string {
	parts := make([]string, len(peers))
	for i, p := range peers {
		parts[i] = fmt.Sprintf("%d:%d", p.Index, p.Links)
	}
	return strings.Join(parts, ",")
}

// versionOf writes a version of up to three numbers as a semantic version: three numbers without leading zeros. It reports
// false for what cannot be written so.
func versionOf(version string) (string, bool) {
	parts := strings.Split(version, ".")
	if version == "" || len(parts) > 3 {
		return "", false
	}
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 10, 32)
		if err != nil {
			return "", false
		}
		parts[i] = strconv.FormatUint(n, 10)
	}
	for len(parts) < 3 {
		parts = append(parts, "0")
	}
	return strings.Join(parts, "."), true
}

func str(s string) resourceapi.DeviceAttribute { return resourceapi.DeviceAttribute{StringValue: &s} }

func boolean(b bool) resourceapi.DeviceAttribute { return resourceapi.DeviceAttribute{BoolValue: &b} }

func integer(i int) resourceapi.DeviceAttribute {
	n := int64(i)
	return resourceapi.DeviceAttribute{IntValue: &n}
}
