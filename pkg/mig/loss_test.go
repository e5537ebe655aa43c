package mig

// Loss is what giving the choices destroys, in memory slices: the weight (the sum of sizes) of the placements that are
// free before and not after, without the chosen ones. The choices must be ones that [Place] could return for the GPUs:
// free and, on each GPU, all possible together.
func Loss(gpus []State, choices []Choice) int {
	loss := 0
	for n, c := range choices {
		s := gpus[c.GPU]
		for _, before := range choices[:n] {
			if before.GPU == c.GPU {
				s = s.With(before.Instance)
			}
		}
		loss += s.offer.weight(s.free) - c.Instance.Size
		s = s.With(c.Instance)
		loss -= s.offer.weight(s.free)
	}
	return loss
}
