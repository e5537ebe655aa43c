package podgroup

import (
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/podspec"
)

// Domains are the domains that a node with the labels is in, one for each level, and "" where it is in none. At level nvlink
// it is the fabric clique, and for a node without one the node alone: its GPUs are linked to each other if to any. Such a
// domain is named by what no clique is called, for a label's value has no slash.
func Domains(labels map[string]string, nodeName string, levels []string) []string {
	out := make([]string, len(levels))
	for i, level := range levels {
		switch {
		case level != gang.LevelNVLink:
			out[i] = labels[level]
		case labels[podspec.LabelClique] != "":
			out[i] = labels[podspec.LabelClique]
		default:
			out[i] = "node/" + nodeName
		}
	}
	return out
}
