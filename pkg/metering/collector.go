package metering

import (
	"strconv"

	"k8s.io/component-base/metrics"

	"weft.sh/weft/pkg/gpu"
)

var (
	holdLabels = []string{"node", "namespace", "pod", "container", "uid", "gpu", "instance"}
	gpuLabels  = []string{"node", "gpu"}

	holdSeconds = desc("container_gpu_allocated_seconds_total",
		"GPU-seconds that the container has held: of a share or a MIG instance the part of the GPU times the time.", holdLabels)
	holdMilliGPU = desc("container_gpu_milligpu",
		"Part of the GPU that the container holds, in thousandths; 0 when it no longer does.", holdLabels)
	holdStart = desc("container_gpu_start_time_seconds",
		"When the container was first given it, in seconds since 1970.", holdLabels)
	holdMemory = desc("container_gpu_memory_bytes",
		"Memory of the GPU that the container may use by what it was given.", holdLabels)
	holdMemoryUsed = desc("container_gpu_memory_used_bytes",
		"Memory in use: of a whole GPU or a MIG instance all of it, of a share what the container's processes use.", holdLabels)
	holdUtilization = desc("container_gpu_utilization_ratio",
		"Part of the time in which a kernel ran, 0 to 1: on a whole GPU anybody's, of a share the container's processes'. NVML does not tell it of MIG instances.",
		holdLabels)

	gpuInfo = desc("gpu_info", "Always 1; the labels say what the GPU is.",
		[]string{"node", "gpu", "index", "product", "isolation", "driver"})
	gpuHealthy = desc("gpu_healthy",
		"1 for a GPU that can be given to pods, 0 for one that cannot be used.", gpuLabels)
	gpuMemory = desc("gpu_memory_total_bytes",
		"Memory of the GPU without what the driver keeps for itself.", gpuLabels)
	gpuMemoryUsed = desc("gpu_memory_used_bytes",
		"Memory of the GPU in use, without what the driver keeps for itself.", gpuLabels)
	gpuUtilization = desc("gpu_utilization_ratio",
		"Part of the last sample period, of up to a second, in which a kernel ran on the GPU, 0 to 1. NVML does not tell it in MIG mode.", gpuLabels)
	gpuMemoryBus = desc("gpu_memory_bus_utilization_ratio",
		"Part of the last sample period in which memory of the GPU was read or written, 0 to 1. NVML does not tell it in MIG mode.", gpuLabels)
	gpuPower  = desc("gpu_power_watts", "Power that the GPU draws.", gpuLabels)
	strangers = desc("gpu_unattributed_processes",
		"Processes on the GPU in no container that holds something of it, by reason.", []string{"node", "gpu", "reason"})
	strangersMemory = desc("gpu_unattributed_memory_used_bytes",
		"Memory that processes use in no container that holds something of the GPU, by reason.", []string{"node", "gpu", "reason"})
	failed = desc("gpu_measure_failures_total",
		"How often NVML could not say how much a GPU is used.", []string{"node"})

	descs = []*metrics.Desc{
		holdSeconds, holdMilliGPU, holdStart, holdMemory, holdMemoryUsed, holdUtilization,
		gpuInfo, gpuHealthy, gpuMemory, gpuMemoryUsed, gpuUtilization, gpuMemoryBus, gpuPower, strangers, strangersMemory, failed,
	}
)

func desc(name, help string, labels []string) *metrics.Desc {
	return metrics.NewDesc("weft_node_"+name, help, labels, nil, metrics.ALPHA, "")
}

// collector shows the meter at the moment of a scrape.
type collector struct {
	metrics.BaseStableCollector
	meter *Meter
}

// Collector is the meter as Prometheus metrics, to be registered once.
func (m *Meter) Collector() metrics.StableCollector { return &collector{meter: m} }

// DescribeWithStability implements metrics.StableCollector.
func (*collector) DescribeWithStability(ch chan<- *metrics.Desc) {
	for _, d := range descs {
		ch <- d
	}
}

// instanceLabel is the MIG instance as in labels and JSON, empty for other holds.
func (h hold) instanceLabel() string {
	if h.kind != gpu.MIG {
		return ""
	}
	return h.instance.Profile + "@" + strconv.Itoa(h.instance.Start)
}

// CollectWithStability implements metrics.StableCollector.
func (c *collector) CollectWithStability(ch chan<- metrics.Metric) {
	s, node := c.meter.state(), c.meter.Node
	emit := func(d *metrics.Desc, kind metrics.ValueType, v float64, labels ...string) {
		ch <- metrics.NewLazyConstMetric(d, kind, v, labels...)
	}
	gauge := func(d *metrics.Desc, v float64, labels ...string) { emit(d, metrics.GaugeValue, v, labels...) }
	scaled := func(d *metrics.Desc, v *int64, scale float64, labels ...string) {
		if v != nil {
			gauge(d, float64(*v)*scale, labels...)
		}
	}
	const mebibyte, percent, milli = 1 << 20, 0.01, 0.001

	// Two series of the same labels would make the whole scrape fail. They can come to be where a container was given the same
	// again; the one that lasts counts, or ended last.
	series := map[[7]string]account{}
	for _, a := range s.accounts {
		if !a.lasts() && s.now.Sub(a.to) >= Visible {
			continue
		}
		labels := [7]string{node, a.namespace, a.pod, a.container, a.uid, string(a.gpu), a.instanceLabel()}
		if other, ok := series[labels]; ok && (other.lasts() || !a.lasts() && other.to.After(a.to)) {
			continue
		}
		series[labels] = a
	}
	for key, a := range series {
		labels := key[:]
		emit(holdSeconds, metrics.CounterValue, float64(a.total)/float64(gpu.WholeMilliGPU*1000), labels...)
		gauge(holdStart, float64(a.from().UnixMilli())/1000, labels...)
		if !a.lasts() {
			gauge(holdMilliGPU, 0, labels...)
			continue
		}
		gauge(holdMilliGPU, float64(a.milliGPU()), labels...)
		if memoryMiB := s.memoryMiB(a.hold); memoryMiB > 0 {
			gauge(holdMemory, float64(memoryMiB)*mebibyte, labels...)
		}
		u := s.samples[a.gpu].useOf(a.hold)
		scaled(holdMemoryUsed, u.memoryMiB, mebibyte, labels...)
		scaled(holdUtilization, u.smPercent, percent, labels...)
	}

	for _, d := range s.inventory.Devices {
		id := string(d.ID)
		isolation := string(d.Isolation)
		if d.MIG {
			isolation = "mig"
		}
		gauge(gpuInfo, 1, node, id, strconv.Itoa(d.Index), d.Product, isolation, s.host.DriverVersion)
		healthy := 1.0
		if d.Unhealthy {
			healthy = 0
		}
		gauge(gpuHealthy, healthy, node, id)
		gauge(gpuMemory, float64(d.MemoryMiB)*mebibyte, node, id)
		measured := s.samples[d.ID]
		if measured == nil {
			continue
		}
		scaled(gpuMemoryUsed, measured.UsedMiB, mebibyte, node, id)
		scaled(gpuUtilization, measured.SMPercent, percent, node, id)
		scaled(gpuMemoryBus, measured.MemoryBusPercent, percent, node, id)
		scaled(gpuPower, measured.PowerMilliwatt, milli, node, id)
		for reason, u := range measured.unattributed(s.holders(d.ID)) {
			gauge(strangers, float64(u.processes), node, id, reason)
			scaled(strangersMemory, u.memoryMiB, mebibyte, node, id, reason)
		}
	}
	emit(failed, metrics.CounterValue, float64(s.failures), node)
}
