// Package validation checks the arguments of the scheduler plugins.
package validation

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"weft.sh/weft/pkg/apis/config"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/podspec"
)

// ValidateGPUFitArgs returns everything that is wrong with the arguments, nil when nothing is. The path is where they
// stand in the file.
func ValidateGPUFitArgs(path *field.Path, args *config.GPUFitArgs) field.ErrorList {
	var errs field.ErrorList
	if !slices.Contains(fit.StrategyNames(), args.Strategy) {
		errs = append(errs, field.NotSupported(path.Child("strategy"), args.Strategy, fit.StrategyNames()))
	}
	if args.MixWindow < 16 || args.MixWindow > 100_000 {
		errs = append(errs, field.Invalid(path.Child("mixWindow"), args.MixWindow, "want 16 to 100000"))
	}
	return errs
}

// ValidateGangArgs returns everything that is wrong with the arguments, nil when nothing is. The path is where they stand in
// the file.
func ValidateGangArgs(path *field.Path, args *config.GangArgs) field.ErrorList {
	var errs field.ErrorList
	levels := path.Child("topologyLevels")
	if len(args.TopologyLevels) > maxLevels {
		errs = append(errs, field.TooMany(levels, len(args.TopologyLevels), maxLevels))
	}
	for i, level := range args.TopologyLevels {
		if !podspec.ValidTopologyKey(level) {
			errs = append(errs, field.Invalid(levels.Index(i), level, "want "+podspec.WantTopologyKey))
		} else if slices.Contains(args.TopologyLevels[:i], level) {
			errs = append(errs, field.Duplicate(levels.Index(i), level))
		}
	}
	between := func(name string, v, low, high int32) {
		if v < low || v > high {
			errs = append(errs, field.Invalid(path.Child(name), v, fmt.Sprintf("want %d to %d", low, high)))
		}
	}
	between("permitTimeoutSeconds", args.PermitTimeoutSeconds, 1, 900) // the scheduling framework lets no pod wait longer
	between("bindRetries", args.BindRetries, 0, 100)
	if args.AgingSeconds < 0 {
		errs = append(errs, field.Invalid(path.Child("agingSeconds"), args.AgingSeconds, "want 0 or more"))
	}
	return errs
}

// maxLevels bounds the levels of a topology: the domains of every node are kept for each.
const maxLevels = 16
