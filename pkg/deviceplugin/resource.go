package deviceplugin

import (
	"strings"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/slot"
)

// ResourceName is the name by which the kubelet, and everybody who writes a pod, knows the resource.
func ResourceName(r slot.Resource) string {
	switch r.Kind {
	case gpu.Whole:
		return podspec.ResourceGPU
	case gpu.Shared:
		return podspec.ResourceGPUPercent
	default:
		return podspec.MIGResource(r.Profile)
	}
}

// ParseResourceName is the resource of that name; not ok when it is none of ours.
func ParseResourceName(name string) (r slot.Resource, ok bool) {
	switch name {
	case podspec.ResourceGPU:
		return slot.Resource{Kind: gpu.Whole}, true
	case podspec.ResourceGPUPercent:
		return slot.Resource{Kind: gpu.Shared}, true
	}
	profile, ok := strings.CutPrefix(name, podspec.ResourceMIGPrefix)
	if !ok {
		return slot.Resource{}, false
	}
	// A resource name has no '+'. The only '.' that stands for one is that after the memory: 1g.10gb.me.all is 1g.10gb+me.all.
	if size, attribute, ok := strings.Cut(profile, "gb."); ok {
		profile = size + "gb+" + attribute
	}
	r = slot.Resource{Kind: gpu.MIG, Profile: profile}
	return r, gpu.ValidProfile(profile) && ResourceName(r) == name
}
