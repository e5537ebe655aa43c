// Package validation checks the arguments of the scheduler plugins.
package validation

import (
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"weft.sh/weft/pkg/apis/config"
	"weft.sh/weft/pkg/fit"
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
