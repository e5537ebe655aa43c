package snapshot

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/podspec"
)

// Names replaces names by hashes: the same name by the same hash within one document, and by another in every other document. A nil
// *Names replaces nothing.
//
// Replaced are the names of namespaces, pods, their containers and owners, nodes, PodGroups, queues and classes, the UIDs of pods and
// GPUs, cliques, the values of all labels but those of GPUs and of spot, and the keys of labels and resources outside of the domains that
// everybody knows. What a pod asks for, the models of GPUs, times, amounts and prices stay: who knows a cluster may still know it again.
type Names struct{ salt []byte }

// Anonymise makes names with a salt, which has to be random and is to be kept nowhere.
func Anonymise(salt []byte) *Names { return &Names{salt} }

// of is what stands for a name: itself where it is empty. It is a name of Kubernetes too, begins with a letter, and has 64 bits.
func (n *Names) of(name string) string {
	if name == "" {
		return ""
	}
	h := hmac.New(sha256.New, n.salt)
	h.Write([]byte(name))
	return "x" + hex.EncodeToString(h.Sum(nil)[:8])
}

// domains are those of keys that everybody knows.
var domains = []string{
	"kubernetes.io", "k8s.io", "nvidia.com", "amd.com", "intel.com", "weft.sh", "karpenter.sh", "eks.amazonaws.com", "cloud.google.com", "azure.com",
	"x-k8s.io", "kubeflow.org",
}

// key is what stands for a key of labels or a name of a resource.
func (n *Names) key(key string) string {
	domain, _, found := strings.Cut(key, "/")
	if !found && (key == "cpu" || key == "memory" || key == "pods" || key == "ephemeral-storage" || key == "nvlink" || strings.HasPrefix(key, "hugepages-")) ||
		found && slices.ContainsFunc(domains, func(d string) bool { return domain == d || strings.HasSuffix(domain, "."+d) }) {
		return key
	}
	return "anonymous/" + n.of(key)
}

// value is what stands for the value of a label.
func (n *Names) value(key, value string) string {
	keep := strings.HasPrefix(key, "nvidia.com/") && key != podspec.LabelClique ||
		slices.ContainsFunc(Spots(), func(s Spot) bool { return s.Key == key }) || key == "kubernetes.io/arch" || key == "kubernetes.io/os"
	if keep {
		return value
	}
	return n.of(value)
}

func (n *Names) labels(m map[string]string) map[string]string {
	if m == nil {
		return nil
	}
	out := map[string]string{}
	for key, value := range m {
		out[n.key(key)] = n.value(key, value)
	}
	return out
}

func (n *Names) resources(list v1.ResourceList) v1.ResourceList {
	if list == nil {
		return nil
	}
	out := v1.ResourceList{}
	for name, amount := range list {
		out[v1.ResourceName(n.key(string(name)))] = amount
	}
	return out
}

func (n *Names) values(key string, values []string) []string {
	out := slices.Clone(values)
	for i := range out {
		out[i] = n.value(key, out[i])
	}
	return out
}

func (n *Names) selector(s *metav1.LabelSelector) *metav1.LabelSelector {
	if s == nil {
		return nil
	}
	out := &metav1.LabelSelector{MatchLabels: n.labels(s.MatchLabels)}
	for _, e := range s.MatchExpressions {
		out.MatchExpressions = append(out.MatchExpressions, metav1.LabelSelectorRequirement{
			Key: n.key(e.Key), Operator: e.Operator, Values: n.values(e.Key, e.Values),
		})
	}
	return out
}

func (n *Names) head(d *Document) {
	if n == nil {
		return
	}
	for i, level := range d.TopologyLevels {
		d.TopologyLevels[i] = n.key(level)
	}
}

func (n *Names) class(c *Class) {
	if n != nil {
		c.Name, c.Spec.NodeSelector = n.of(c.Name), n.selector(c.Spec.NodeSelector)
	}
}

func (n *Names) queue(q *Queue) {
	if n == nil {
		return
	}
	q.Name, q.Spec.Parent = n.of(q.Name), n.of(q.Spec.Parent)
	if s := q.Spec.Namespaces; s != nil {
		for i := range s.Names {
			s.Names[i] = n.of(s.Names[i])
		}
		s.Selector = n.selector(s.Selector)
	}
	if b := q.Spec.Budget; b != nil {
		for i := range b.Adjustments {
			b.Adjustments[i].Name = n.of(b.Adjustments[i].Name)
		}
	}
}

func (n *Names) namespace(s *Namespace) {
	if n != nil {
		s.Name, s.Labels = n.of(s.Name), n.labels(s.Labels)
	}
}

// topology replaces the keys of levels.
func (n *Names) topology(annotations map[string]string) map[string]string {
	out := maps.Clone(annotations)
	for _, key := range []string{podspec.AnnotationTopologyRequired, podspec.AnnotationTopologyPreferred} {
		if level, ok := out[key]; ok {
			out[key] = n.key(level)
		}
	}
	return out
}

func (n *Names) group(g *PodGroup) {
	if n != nil {
		g.Namespace, g.Name, g.Annotations = n.of(g.Namespace), n.of(g.Name), n.topology(g.Annotations)
	}
}

func (n *Names) native(g *NativeGroup) {
	if n == nil {
		return
	}
	g.Namespace, g.Name, g.Annotations = n.of(g.Namespace), n.of(g.Name), n.topology(g.Annotations)
	if g.Constraints != nil {
		c := g.Constraints.DeepCopy()
		for i := range c.Topology {
			c.Topology[i].Key = n.key(c.Topology[i].Key)
		}
		g.Constraints = c
	}
}

func (n *Names) pod(p *Pod) {
	if n == nil {
		return
	}
	for _, name := range []*string{&p.Namespace, &p.Name, &p.UID, &p.Queue, &p.PodGroup, &p.NativePodGroup, &p.Node} {
		*name = n.of(*name)
	}
	if kind, name, ok := strings.Cut(p.Owner, "/"); ok {
		p.Owner = kind + "/" + n.of(name)
	}
	p.Order = maps.Clone(p.Order)
	for key, value := range p.Order {
		if strings.Trim(value, "0123456789") != "" {
			p.Order[key] = n.of(value)
		}
	}
	if text, ok := p.Annotations[podspec.AnnotationGPUs]; ok {
		p.Annotations = maps.Clone(p.Annotations)
		p.Annotations[podspec.AnnotationGPUs] = n.assignment(text)
	}
	p.Containers = slices.Clone(p.Containers)
	for i := range p.Containers {
		c := &p.Containers[i]
		c.Name, c.Requests = n.of(c.Name), n.resources(c.Requests)
	}
	p.Overhead, p.Resources, p.NodeSelector = n.resources(p.Overhead), n.resources(p.Resources), n.labels(p.NodeSelector)
	if p.NodeAffinity != nil {
		p.NodeAffinity = p.NodeAffinity.DeepCopy()
		for i := range p.NodeAffinity.NodeSelectorTerms {
			term := &p.NodeAffinity.NodeSelectorTerms[i]
			for j := range term.MatchExpressions {
				e := &term.MatchExpressions[j]
				if e.Operator != v1.NodeSelectorOpGt && e.Operator != v1.NodeSelectorOpLt {
					e.Values = n.values(e.Key, e.Values)
				}
				e.Key = n.key(e.Key)
			}
			for j := range term.MatchFields { // metadata.name is the only one
				term.MatchFields[j].Values = n.values("", term.MatchFields[j].Values)
			}
		}
	}
	p.Tolerations = slices.Clone(p.Tolerations)
	for i := range p.Tolerations {
		if t := &p.Tolerations[i]; t.Key != "" {
			t.Key, t.Value = n.key(t.Key), n.value(t.Key, t.Value)
		}
	}
}

// assignment replaces the names of containers and GPUs. One that cannot be read says nothing but that: it may be anybody's text.
func (n *Names) assignment(text string) string {
	a, err := gpu.ParseAssignment(text)
	if err != nil {
		return "unreadable"
	}
	for i := range a.Containers {
		c := &a.Containers[i]
		c.Container = n.of(c.Container)
		for j := range c.Grants {
			c.Grants[j].GPU = gpu.ID(n.device(string(c.Grants[j].GPU)))
		}
	}
	return a.String()
}

// device is what stands for the id of a GPU; those of nodes that are known by labels say nothing but a number.
func (n *Names) device(id string) string {
	if !strings.HasPrefix(id, "GPU-") {
		return id
	}
	return "GPU-" + n.of(id)
}

func (n *Names) node(node *Node) {
	if n == nil {
		return
	}
	node.Name, node.Labels = n.of(node.Name), n.labels(node.Labels)
	node.Capacity, node.Allocatable = n.resources(node.Capacity), n.resources(node.Allocatable)
	for i := range node.Taints {
		t := &node.Taints[i]
		t.Key, t.Value = n.key(t.Key), n.value(t.Key, t.Value)
	}
	if node.GPUs == nil {
		return
	}
	for i := range *node.GPUs {
		d := &(*node.GPUs)[i]
		d.ID, d.Clique = n.device(d.ID), n.of(d.Clique)
	}
}
