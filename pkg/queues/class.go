package queues

import (
	"cmp"
	"encoding/json"
	"errors"
	"iter"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
)

// Class is what GPUs of a kind count.
type Class struct {
	// Name is the GPUClass; empty where none selects the GPUs, and an hour then counts once.
	Name string
	// WeightMilli is in thousandths.
	WeightMilli int64
	PriceMicros int64 // of an hour of one GPU, in millionths of Currency
	Currency    string
}

// unclassed is what GPUs count that no class selects.
var unclassed = Class{WeightMilli: 1000}

// maxWeightMilli and maxMilliGPU bound a rate, so that it is no more than an int64 holds.
const (
	maxWeightMilli = 1000 * 1000
	maxMilliGPU    = int64(1) << 40
)

// Rate is what is charged a second for so many milli-GPU of the class: rounded up to a whole milli-GPU.
func (c Class) Rate(milliGPU int64) int64 {
	return (min(milliGPU, maxMilliGPU)*c.WeightMilli + 999) / 1000
}

// selector is a class with what it selects.
type selector struct {
	Class
	priority           int32
	products, profiles []string
	nodes              labels.Selector // nil for all
}

func (s *selector) ofProduct(product string) bool {
	return len(s.products) == 0 || slices.Contains(s.products, product) || slices.Contains(s.products, model(product))
}

func (s *selector) ofProfile(profile string) bool {
	return len(s.profiles) == 0 || slices.Contains(s.profiles, profile)
}

// newSelector reads a class. Errors are *podspec.InvalidError, joined.
func newSelector(c *v1alpha1.GPUClass) (selector, error) {
	var r specReader
	s := selector{
		Class: Class{Name: c.Name}, priority: c.Spec.Priority, products: c.Spec.Products, profiles: c.Spec.MIGProfiles,
	}
	var ok bool
	if s.WeightMilli, ok = scaled(c.Spec.Weight, 1000); !ok || s.WeightMilli < 0 || s.WeightMilli > maxWeightMilli {
		r.invalid("spec.weight", c.Spec.Weight.String(), "a weight from 0 to 1000 in steps of a thousandth, such as 0.3")
	}
	if p := c.Spec.Price; p != nil {
		s.Currency = p.Currency
		if s.PriceMicros, ok = scaled(p.PerGPUHour, 1e6); !ok || s.PriceMicros < 0 {
			r.invalid("spec.price.perGPUHour", p.PerGPUHour.String(), "a price of 0 or more in steps of a millionth, such as 2.5")
		}
	}
	if c.Spec.NodeSelector != nil {
		s.nodes = r.selector("spec.nodeSelector", c.Spec.NodeSelector)
	}
	return s, errors.Join(r.errs...)
}

func (r *specReader) selector(field string, s *metav1.LabelSelector) labels.Selector {
	out, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		text, _ := json.Marshal(s) // strings alone: it does not err
		r.invalid(field, string(text), "a label selector: "+err.Error())
		return labels.Nothing()
	}
	return out
}

// compareSelectors has the class that counts first.
func compareSelectors(a, b selector) int {
	return cmp.Or(cmp.Compare(b.priority, a.priority), strings.Compare(a.Name, b.Name))
}

// ClassOn is the class of a GPU of that model on a node with those labels; profile is empty but for MIG.
func (s *Set) ClassOn(nodeLabels map[string]string, product, profile string) Class {
	for i := range s.classes {
		c := &s.classes[i]
		if c.ofProduct(product) && c.ofProfile(profile) && (c.nodes == nil || c.nodes.Matches(labels.Set(nodeLabels))) {
			return c.Class
		}
	}
	return unclassed
}

// classesOf are the classes that a GPU of one of the models (none are all) may be of on some node, in the order in which they
// count: at least one. Of the nodes nothing is known.
func (s *Set) classesOf(products []string, profile string) iter.Seq[*Class] {
	return func(yield func(*Class) bool) {
		for i := range s.classes {
			c := &s.classes[i]
			if !c.ofProfile(profile) {
				continue
			}
			// Without models the pod may get one of any class, and of a class that selects no models for certain.
			some, all := true, len(c.products) == 0
			if len(products) > 0 {
				some = slices.ContainsFunc(products, c.ofProduct)
				all = !slices.ContainsFunc(products, func(p string) bool { return !c.ofProduct(p) })
			}
			if some && !yield(&c.Class) || all && c.nodes == nil { // nothing is left for the classes after it
				return
			}
		}
		yield(&unclassed)
	}
}

// model is the product without what NVIDIA's GPU feature discovery adds to the label of GPUs that are shared or in MIG mode.
func model(product string) string {
	product, _, _ = strings.Cut(product, "-MIG-")
	return strings.TrimSuffix(product, "-SHARED")
}
