package compat

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/version"
	apimachineryversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/component-base/featuregate"
)

// The releases that are supported. The libraries are Newest, and can emulate three minors back; a server may be one
// minor newer than its scheduler (https://kubernetes.io/releases/version-skew-policy).
var (
	Oldest       = version.MajorMinor(1, 34)
	Newest       = version.MajorMinor(1, 37)
	newestServer = version.MajorMinor(1, 38)
)

// ErrUnsupportedServer says that the API server's release is outside of what is supported. The user can overrule it
// with --emulated-version.
var ErrUnsupportedServer = errors.New("API server release not supported")

// Served is what the API server serves: resources with their exact group and version.
type Served = sets.Set[schema.GroupVersionResource]

// Input is everything that a decision depends on.
type Input struct {
	// Version is the server's answer to /version. Its zero value is allowed: then Served tells the release.
	Version apimachineryversion.Info
	Served  Served
	// Gates are the scheduler's, before any flag has been applied. They are copied, never changed.
	Gates featuregate.MutableVersionedFeatureGate
	// Emulate is the user's --emulated-version; nil: not given.
	Emulate *version.Version
	// UserGates are the user's --feature-gates.
	UserGates map[string]bool
	// UnusedPlugins are the in-tree plugins that no profile uses; their informers are not started.
	UnusedPlugins sets.Set[string]
}

// Decision is how to run against a server.
type Decision struct {
	// Server is the release that the server's answers amount to, and Evidence what they were.
	Server   *version.Version
	Evidence string
	// Emulate is the release to emulate; at most Newest, unless the user said otherwise.
	Emulate *version.Version
	// Off are the gates to force off, sorted, and On those to switch on; see [Wanted]. None of them is in the user's
	// --feature-gates.
	Off, On []featuregate.Feature
	// Warnings say what does not work in this setting, and what a person can do about it.
	Warnings []string
}

// MissingAPIError says that the scheduler would wait for ever for an API that the server does not serve.
type MissingAPIError struct {
	// Emulate is the release that was looked at.
	Emulate *version.Version
	Missing []MissingAPI
}

// MissingAPI is one API that is needed and absent.
type MissingAPI struct {
	Resource schema.GroupVersionResource
	// Reason says why the scheduler needs it all the same, and what to do.
	Reason string
}

func (e *MissingAPIError) Error() string {
	var lines []string
	for _, missing := range e.Missing {
		lines = append(lines, fmt.Sprintf("%s (%s)", resourceName(missing.Resource), missing.Reason))
	}
	return fmt.Sprintf("the API server does not serve what the scheduler needs when it emulates %s: %s", e.Emulate, strings.Join(lines, "; "))
}

// Decide returns how to run against a server. The release to emulate is the user's, else the server's, else the next
// older one with which every informer has its API. Errors are ErrUnsupportedServer, *MissingAPIError, and what the
// gates say about the user's --feature-gates.
func Decide(in Input) (Decision, error) {
	decision := Decision{}
	decision.Server, decision.Evidence = serverRelease(in.Version, in.Served)

	var candidates []*version.Version
	switch {
	case in.Emulate != nil:
		candidates = append(candidates, in.Emulate)
		if !in.Emulate.EqualTo(atMost(decision.Server, Newest)) {
			decision.warn("the API server is %s and --emulated-version asks for %s: pods that use what only one of them has may be treated wrongly", decision.Server, in.Emulate)
		}
	case decision.Server.LessThan(Oldest) || newestServer.LessThan(decision.Server):
		return decision, fmt.Errorf("%w: it is %s (%s), want %s to %s: use the release of weft that goes with the cluster, or try this one at your own risk with --emulated-version=%s",
			ErrUnsupportedServer, decision.Server, decision.Evidence, Oldest, newestServer, clamp(decision.Server))
	default:
		if Newest.LessThan(decision.Server) {
			decision.warn("the API server is %s, newer than the scheduler's %s: what is new in it is not used", decision.Server, Newest)
		}
		for v := atMost(decision.Server, Newest); !v.LessThan(Oldest); v = v.SubtractMinor(1) {
			candidates = append(candidates, v)
		}
	}

	var refused error
	for _, candidate := range candidates {
		off, err := gatesOff(in, candidate)
		if err != nil {
			// The release nearest to the server's is the one to explain. An older one helps only where an API is
			// missing; a wrong flag must not be met with another release.
			if refused == nil {
				refused = err
			}
			if missing := (*MissingAPIError)(nil); !errors.As(refused, &missing) {
				break
			}
			continue
		}
		if refused != nil {
			decision.warn("%v; so %s is emulated and no scheduler feature that came later is there", refused, candidate)
		}
		decision.Emulate, decision.Off = candidate, off
		if absent := absentAPIs(in, off); len(absent) > 0 {
			decision.warn("the API server does not serve %s: pods that depend on it are not scheduled as they ask", strings.Join(absent, ", "))
		}
		return decision, nil
	}
	return decision, refused
}

func (d *Decision) warn(format string, args ...any) {
	d.Warnings = append(d.Warnings, fmt.Sprintf(format, args...))
}

// gatesOff returns the gates that must be forced off for every started informer to have its API when v is emulated.
func gatesOff(in Input, v *version.Version) ([]featuregate.Feature, error) {
	gates, err := emulating(in.Gates, v, in.UserGates)
	if err != nil {
		return nil, err
	}
	missing := &MissingAPIError{Emulate: v}
	off := sets.New[featuregate.Feature]()
	for _, w := range watches() {
		if in.Served.Has(w.resource) || !w.startedWith(gates, in.UnusedPlugins) {
			continue
		}
		if reason := switchOff(w, gates, in.UserGates, v, off); reason != "" {
			missing.Missing = append(missing.Missing, MissingAPI{Resource: w.resource, Reason: reason})
		}
	}
	if len(missing.Missing) > 0 {
		return nil, missing
	}
	return slices.Sorted(maps.Keys(off)), nil
}

// emulating returns a copy of the gates as the scheduler would have them.
func emulating(gates featuregate.MutableVersionedFeatureGate, v *version.Version, user map[string]bool) (featuregate.MutableVersionedFeatureGate, error) {
	// The same default as the registry of component-base: one minor back, but not below the oldest.
	compatible := v.SubtractMinor(1)
	if compatible.LessThan(Oldest) {
		compatible = Oldest
	}
	emulated := gates.DeepCopy()
	if err := emulated.SetEmulationVersionAndMinCompatibilityVersion(v, compatible); err != nil {
		return nil, fmt.Errorf("feature gates cannot emulate %s: %w", v, err)
	}
	if len(user) == 0 {
		return emulated, nil
	}
	// Without a logger: this is a trial, and the scheduler will say the same again.
	var err error
	if quiet, ok := emulated.(featuregate.MutableFeatureGateWithLogger); ok {
		err = quiet.SetFromMapWithLogger(logr.Discard(), user)
	} else {
		err = emulated.SetFromMap(user)
	}
	if err != nil {
		return nil, fmt.Errorf("--feature-gates do not go with the emulated release %s: %w", v, err)
	}
	return emulated, nil
}

// switchOff adds to off the gate that governs w, and every enabled gate that depends on it. It returns why that is not
// possible, or nothing.
func switchOff(w watch, gates featuregate.MutableVersionedFeatureGate, user map[string]bool, v *version.Version, off sets.Set[featuregate.Feature]) string {
	if len(w.gates) == 0 {
		reason := "kube-scheduler " + Newest.String() + " always watches it: serve it, see --runtime-config of kube-apiserver"
		if len(w.plugins) > 0 {
			reason += fmt.Sprintf(", or disable %s under plugins.multiPoint in every profile of --config", strings.Join(w.plugins, ", "))
		}
		return reason
	}
	specs := gates.GetAll()
	for _, gate := range dependents(w.gates[len(w.gates)-1], gates) {
		if user[string(gate)] {
			return fmt.Sprintf("--feature-gates=%s=true asks for it: serve it, see --runtime-config of kube-apiserver, or leave the gate out", gate)
		}
		if spec := specs[gate]; spec.LockToDefault && spec.Default {
			return fmt.Sprintf("its feature gate %s is locked on in %s: serve it, see --runtime-config of kube-apiserver", gate, v)
		}
		off.Insert(gate)
	}
	return ""
}

// dependents returns the gate and then, sorted, all that are enabled and depend on it, directly or not. A gate that is
// on while one that it depends on is off makes kube-scheduler refuse its flags.
func dependents(gate featuregate.Feature, gates featuregate.FeatureGate) []featuregate.Feature {
	found := sets.New(gate)
	for grew := true; grew; {
		grew = false
		for feature, dependencies := range gates.Dependencies() {
			if !found.Has(feature) && found.HasAny(dependencies...) && gates.Enabled(feature) {
				found.Insert(feature)
				grew = true
			}
		}
	}
	return append([]featuregate.Feature{gate}, slices.Sorted(maps.Keys(found.Delete(gate)))...)
}

// absentAPIs names the APIs that the forced-off gates are for.
func absentAPIs(in Input, off []featuregate.Feature) []string {
	var names []string
	for _, w := range watches() {
		if len(w.gates) > 0 && slices.Contains(off, w.gates[len(w.gates)-1]) && !in.Served.Has(w.resource) {
			names = append(names, w.String())
		}
	}
	return names
}

// releaseMarks are APIs that appeared in a release and are served by default since, newest first. They tell the
// release of a server that does not. There is none for 1.35, so it counts as 1.34, which works as well.
func releaseMarks() []releaseMark {
	return []releaseMark{
		{resource("resource.k8s.io", "v1", "devicetaintrules"), version.MajorMinor(1, 37)},
		{resource("storagemigration.k8s.io", "v1", "storageversionmigrations"), version.MajorMinor(1, 37)},
		{resource("admissionregistration.k8s.io", "v1", "mutatingadmissionpolicies"), version.MajorMinor(1, 36)},
	}
}

type releaseMark struct {
	resource schema.GroupVersionResource
	since    *version.Version
}

// serverRelease returns the release whose behaviour the server has, with the evidence for it. In the order of trust:
// what the server itself emulates; its binary's release, which kube-apiserver knows even when it was built without a
// version and calls itself v0.0.0-master; its version string; and for a server that says nothing usable, its APIs.
func serverRelease(info apimachineryversion.Info, served Served) (*version.Version, string) {
	if v := majorMinor(info.EmulationMajor, info.EmulationMinor); v != nil {
		return v, fmt.Sprintf("/version says emulationMajor %q, emulationMinor %q", info.EmulationMajor, info.EmulationMinor)
	}
	if v := majorMinor(info.Major, info.Minor); v != nil {
		return v, fmt.Sprintf("/version says major %q, minor %q", info.Major, info.Minor)
	}
	if v, err := version.ParseSemantic(info.GitVersion); err == nil && v.Major() > 0 {
		return version.MajorMinor(v.Major(), v.Minor()), fmt.Sprintf("/version says gitVersion %q", info.GitVersion)
	}
	for _, mark := range releaseMarks() {
		if served.Has(mark.resource) {
			return mark.since, fmt.Sprintf("/version says %q, and %s is served, which is new in %s", info.GitVersion, resourceName(mark.resource), mark.since)
		}
	}
	return Oldest, fmt.Sprintf("/version says %q, and no API is served that is new in a later release", info.GitVersion)
}

// majorMinor parses the numbers of /version. Some distributions write the minor with a plus ("34+"). It returns nil
// for what is empty, no number, or 0.
func majorMinor(major, minor string) *version.Version {
	majorNumber, err := strconv.ParseUint(major, 10, 16)
	if err != nil || majorNumber == 0 {
		return nil
	}
	minorNumber, err := strconv.ParseUint(strings.TrimSuffix(minor, "+"), 10, 16)
	if err != nil {
		return nil
	}
	return version.MajorMinor(uint(majorNumber), uint(minorNumber))
}

func atMost(v, limit *version.Version) *version.Version {
	if limit.LessThan(v) {
		return limit
	}
	return v
}

func clamp(v *version.Version) *version.Version {
	if v.LessThan(Oldest) {
		return Oldest
	}
	return atMost(v, Newest)
}
