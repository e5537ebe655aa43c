package compat

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/version"
	basecompatibility "k8s.io/component-base/compatibility"
	configv1 "k8s.io/kube-scheduler/config/v1"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/scheme"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/names"
)

const (
	emulatedVersionFlag = "emulated-version"
	featureGatesFlag    = "feature-gates"
	// gangPlugin is the plugin of ours that generates placements.
	gangPlugin = "Gang"
)

// givenFlags is what the user set of the flags that this package sets.
type givenFlags struct {
	// emulate is nil where the user did not set it.
	emulate *version.Version
	gates   map[string]bool
	// gatePrefix is "kube:" where the user wrote gates so; the two ways of writing must not be mixed.
	gatePrefix string
}

// readFlags reads the flags as the registry of component-base does. Entries of other components are not looked at.
func readFlags(flags *pflag.FlagSet) (givenFlags, error) {
	given := givenFlags{gates: map[string]bool{}}
	releases, err := flags.GetStringSlice(emulatedVersionFlag)
	if err != nil {
		return given, fmt.Errorf("want a command of kube-scheduler: %w", err)
	}
	for _, entry := range releases {
		component, release := basecompatibility.DefaultKubeComponent, entry
		if before, after, found := strings.Cut(entry, "="); found {
			component, release = strings.TrimSpace(before), strings.TrimSpace(after)
		}
		if component != basecompatibility.DefaultKubeComponent {
			continue
		}
		v, err := version.Parse(release)
		if err != nil {
			return given, fmt.Errorf("--%s=%s: want major.minor, for example %s: %w", emulatedVersionFlag, entry, Newest, err)
		}
		given.emulate = version.MajorMinor(v.Major(), v.Minor())
	}

	gates := flags.Lookup(featureGatesFlag)
	if gates == nil {
		return given, fmt.Errorf("want a command of kube-scheduler: it has no flag --%s", featureGatesFlag)
	}
	// The flag writes itself as "component:gate=value,...", with an empty component where none was given.
	for entry := range strings.SplitSeq(gates.Value.String(), ",") {
		component, setting, _ := strings.Cut(entry, ":")
		if setting == "" || (component != "" && component != basecompatibility.DefaultKubeComponent) {
			continue
		}
		if component != "" {
			given.gatePrefix = component + ":"
		}
		name, value, _ := strings.Cut(setting, "=")
		on, err := strconv.ParseBool(strings.TrimSpace(value))
		if err != nil {
			return given, fmt.Errorf("--%s=%s: want name=true or name=false: %w", featureGatesFlag, setting, err)
		}
		given.gates[strings.TrimSpace(name)] = on
	}
	return given, nil
}

// apply sets the flags as if the decision had been written behind what the user gave. Where the scheduler would do the
// same without a flag, it is left alone.
func (g givenFlags) apply(flags *pflag.FlagSet, decision Decision) error {
	if g.emulate == nil && decision.Emulate.LessThan(Newest) {
		entry := basecompatibility.DefaultKubeComponent + "=" + decision.Emulate.String()
		if err := flags.Set(emulatedVersionFlag, entry); err != nil {
			return fmt.Errorf("set --%s=%s: %w", emulatedVersionFlag, entry, err)
		}
	}
	entries := make([]string, 0, len(decision.Off)+len(decision.On))
	for _, gate := range decision.Off {
		entries = append(entries, fmt.Sprintf("%s%s=false", g.gatePrefix, gate))
	}
	for _, gate := range decision.On {
		entries = append(entries, fmt.Sprintf("%s%s=true", g.gatePrefix, gate))
	}
	if len(entries) == 0 {
		return nil
	}
	if err := flags.Set(featureGatesFlag, strings.Join(entries, ",")); err != nil {
		return fmt.Errorf("set --%s=%s: %w", featureGatesFlag, strings.Join(entries, ","), err)
	}
	return nil
}

// connection is what kube-scheduler makes its clients from; both empty: in the cluster.
type connection struct {
	master, kubeconfig string
}

// readConfig finds the connection as Options.ApplyTo of kube-scheduler does: with --config only what its file says,
// else --kubeconfig; --master overrides the address in either. It also returns the profiles in the file.
func readConfig(flags *pflag.FlagSet) (connection, []configv1.KubeSchedulerProfile, error) {
	found := connection{master: flagValue(flags, "master")}
	file := flagValue(flags, "config")
	if file == "" {
		found.kubeconfig = flagValue(flags, "kubeconfig")
		return found, nil, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return found, nil, fmt.Errorf("--config: %w", err)
	}
	// Without defaults: they ask the feature gates, which have not been set yet.
	object, kind, err := scheme.Codecs.UniversalDeserializer().Decode(data, nil, nil)
	if err != nil {
		return found, nil, fmt.Errorf("--config=%s: %w", file, err)
	}
	config, ok := object.(*configv1.KubeSchedulerConfiguration)
	if !ok {
		return found, nil, fmt.Errorf("--config=%s: it holds %s, want KubeSchedulerConfiguration of %s", file, kind, configv1.SchemeGroupVersion)
	}
	found.kubeconfig = config.ClientConnection.Kubeconfig
	return found, config.Profiles, nil
}

func flagValue(flags *pflag.FlagSet, name string) string {
	flag := flags.Lookup(name)
	if flag == nil {
		return ""
	}
	return flag.Value.String()
}

// unusedPlugins returns the plugins of the table of watches that are in no profile.
func unusedPlugins(profiles []configv1.KubeSchedulerProfile) sets.Set[string] {
	unused := sets.New[string]()
	if len(profiles) == 0 {
		return unused
	}
	for _, w := range watches() {
		unused.Insert(w.plugins...)
	}
	for plugin := range unused {
		for _, profile := range profiles {
			if usesPlugin(profile.Plugins, plugin) {
				unused.Delete(plugin)
				break
			}
		}
	}
	return unused
}

// generatesTwice reports whether a profile would have two plugins that generate placements: ours, where it is named, and the
// in-tree one, where it is not disabled. kube-scheduler refuses such a profile.
func generatesTwice(profiles []configv1.KubeSchedulerProfile) bool {
	const inTree = names.TopologyPlacementGenerator
	off := func(p configv1.Plugin) bool { return p.Name == inTree || p.Name == "*" }
	return slices.ContainsFunc(profiles, func(p configv1.KubeSchedulerProfile) bool {
		return p.Plugins != nil && namesPlugin(p.Plugins, gangPlugin) && usesPlugin(p.Plugins, inTree) &&
			!slices.ContainsFunc(p.Plugins.PlacementGenerate.Disabled, off)
	})
}

// usesPlugin reports whether a profile makes an instance of a plugin that is on by default. A plugin that is disabled
// at some extension points only, and not at multiPoint, is still made.
func usesPlugin(plugins *configv1.Plugins, name string) bool {
	if plugins == nil || namesPlugin(plugins, name) {
		return true
	}
	for _, plugin := range plugins.MultiPoint.Disabled {
		if plugin.Name == name || plugin.Name == "*" {
			return false
		}
	}
	return true
}

// namesPlugin reports whether a profile enables the plugin by name.
func namesPlugin(plugins *configv1.Plugins, name string) bool {
	points := []configv1.PluginSet{
		plugins.MultiPoint, plugins.PreEnqueue, plugins.QueueSort, plugins.PreFilter, plugins.Filter, plugins.PostFilter,
		plugins.PreScore, plugins.Score, plugins.Reserve, plugins.Permit, plugins.PreBind, plugins.Bind, plugins.PostBind,
		plugins.PlacementGenerate, plugins.PlacementScore, plugins.PodGroupPostFilter,
	}
	for _, point := range points {
		for _, plugin := range point.Enabled {
			if plugin.Name == name {
				return true
			}
		}
	}
	return false
}
