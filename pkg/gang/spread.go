package gang

// spread is how many domains of each level of the problem all members are in, and the narrowest level and domain that holds them
// all.
func spread(p *Problem, placements []Placement) (domains []int, level, domain string) {
	nodes := make([]int, 0, len(placements))
	held := map[string]bool{}
	for _, m := range p.Members {
		if m.Node != "" {
			held[m.Node] = true
		}
	}
	for i := range p.Nodes {
		if held[p.Nodes[i].Name] {
			nodes = append(nodes, i)
		}
	}
	for _, at := range placements {
		nodes = append(nodes, at.Node)
	}
	// A domain's key is its value, or, without the label, what is narrower.
	type key struct {
		level int // -1 is the node
		value string
	}
	keys := make([]key, len(nodes))
	for k, i := range nodes {
		keys[k] = key{-1, p.Nodes[i].Name}
	}
	for l := range p.Levels {
		seen := map[key]bool{}
		for k, i := range nodes {
			if v := p.Nodes[i].domain(l); v != "" {
				keys[k] = key{l, v}
			}
			seen[keys[k]] = true
		}
		domains = append(domains, len(seen))
		if level == "" && len(seen) == 1 && keys[0].level == l {
			level, domain = p.Levels[l], keys[0].value
		}
	}
	return domains, level, domain
}
