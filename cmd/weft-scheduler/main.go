// Command weft-scheduler is kube-scheduler with Weft's plugins in it.
package main

import (
	"os"

	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register" // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	"k8s.io/kubernetes/cmd/kube-scheduler/app"
	"k8s.io/kubernetes/pkg/features"

	"weft.sh/weft/pkg/compat"
	"weft.sh/weft/pkg/plugins/gang"
	"weft.sh/weft/pkg/plugins/gpufit"
	"weft.sh/weft/pkg/plugins/queue"
)

func main() {
	state := gpufit.NewState(gpufit.Options{
		// compat has switched the gate off where the API server does not serve the API.
		ResourceSlices: func() bool { return utilfeature.DefaultFeatureGate.Enabled(features.DynamicResourceAllocation) },
	})
	native := func() bool { return utilfeature.DefaultFeatureGate.Enabled(features.GenericWorkload) }
	queues := queue.NewState(queue.Options{GPUs: state, Native: native})
	command := app.NewSchedulerCommand(
		app.WithPlugin(gpufit.Name, gpufit.NewFactory(state)),
		app.WithPlugin(gang.Name, gang.NewFactory(gang.Options{
			State:  state,
			Native: native,
			Queues: queues,
		})),
		app.WithPlugin(queue.Name, queue.NewFactory(queues)),
	)
	command.Use = "weft-scheduler"
	compat.Adapt(command)
	os.Exit(cli.Run(command))
}
