package nvml

import (
	"slices"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"weft.sh/weft/pkg/gpu"
)

// links reads the NVLinks of all GPUs that answer, once it is known which GPU has which PCI address.
func (r *reading) links() {
	byBus := map[string]int{}
	for i, g := range r.host.GPUs {
		if b := g.Hardware.PCIBusID; b != "" {
			byBus[b] = i
		}
	}
	// at[i][k] is how many links GPU i says lead to GPU k, both by their place in host.GPUs.
	at := make([]map[int]int, len(r.host.GPUs))
	for i := range r.host.GPUs {
		g := &r.host.GPUs[i]
		if dev, ok := r.handles[g.ID]; ok {
			at[i], g.Hardware.Links.Switch = r.linksOf(dev, byBus)
			delete(at[i], i)
		}
	}
	for i := range r.host.GPUs {
		g := &r.host.GPUs[i]
		if _, ok := r.handles[g.ID]; !ok {
			continue
		}
		for k, n := range at[i] {
			o := &r.host.GPUs[k]
			if _, ok := r.handles[o.ID]; ok && at[k][i] != n {
				if i < k || at[k][i] == 0 {
					r.host.problem("GPU %d has %d NVLinks to GPU %d, which has %d back: the smaller number counts", g.Index, n, o.Index, at[k][i])
				}
				n = min(n, at[k][i])
			}
			if n > 0 {
				g.Hardware.Links.Peers = append(g.Hardware.Links.Peers, gpu.Peer{Index: o.Index, Links: n})
			}
		}
		slices.SortFunc(g.Hardware.Links.Peers, func(a, b gpu.Peer) int { return a.Index - b.Index })
	}
}

// linksOf counts the active NVLinks of one GPU: those to each other GPU, by byBus's values, and those to switches.
func (l *Library) linksOf(dev nvml.Device, byBus map[string]int) (peers map[int]int, switches int) {
	peers = map[int]int{}
	for link := range nvml.NVLINK_MAX_LINKS {
		state, ret := dev.GetNvLinkState(link)
		if ret == nvml.ERROR_INVALID_ARGUMENT || gone(ret) {
			break // it has no more
		}
		if ret != nvml.SUCCESS || state != nvml.FEATURE_ENABLED {
			continue
		}
		kind := nvml.NVLINK_DEVICE_TYPE_UNKNOWN
		if l.has["nvmlDeviceGetNvLinkRemoteDeviceType"] {
			if k, ret := dev.GetNvLinkRemoteDeviceType(link); ret == nvml.SUCCESS {
				kind = k
			}
		}
		if kind == nvml.NVLINK_DEVICE_TYPE_SWITCH {
			switches++
			continue
		}
		// Where the driver does not say what is at the other end, the address does: it is a GPU of this node or unknown.
		if pci, ret := dev.GetNvLinkRemotePciInfo(link); ret == nvml.SUCCESS {
			if k, ok := byBus[busID(pci.BusId)]; ok {
				peers[k]++
			}
		}
	}
	return peers, switches
}
