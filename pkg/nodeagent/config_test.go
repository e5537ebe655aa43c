package nodeagent

import (
	"testing"
)

func TestValidate(t *testing.T) {
	good := func() Config {
		return Config{
			NodeName: "node-1", Mode: ModeAll, Listen: "127.0.0.1:9411",
			Driver: DriverConfig{Root: "/", Hook: "/usr/bin/nvidia-cdi-hook"},
			Paths:  PathConfig{Kubelet: "/k", DevicePlugins: "/d", CDI: "/c", State: "/s"},
		}
	}
	for name, tc := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"the defaults":               {func(*Config) {}, ""},
		"fractions of some":          {func(c *Config) { c.Mode, c.SharedGPUs = ModeFractions, []string{"0", "GPU-8f2c"} }, ""},
		"every address, IPv6":        {func(c *Config) { c.Listen = "[::]:0" }, ""},
		"no such mode":               {func(c *Config) { c.Mode = "some" }, `--mode is "some": want all or fractions`},
		"fractions of none":          {func(c *Config) { c.Mode = ModeFractions }, "--shared-gpus is empty: --mode fractions wants the GPUs to share, by index or UUID"},
		"GPUs named for nothing":     {func(c *Config) { c.SharedGPUs = []string{"1", "2"} }, `--shared-gpus is "1,2": it goes with --mode fractions only, for otherwise every GPU can be shared`},
		"a GPU that is none":         {func(c *Config) { c.Mode, c.SharedGPUs = ModeFractions, []string{"-1"} }, `--shared-gpus has "-1": want an index such as 4, or a UUID such as GPU-8f2c…, as nvidia-smi -L prints them`},
		"a GPU with a hole":          {func(c *Config) { c.Mode, c.SharedGPUs = ModeFractions, []string{"GPU-a/b"} }, `--shared-gpus has "GPU-a/b": want an index such as 4, or a UUID such as GPU-8f2c…, as nvidia-smi -L prints them`},
		"a GPU twice":                {func(c *Config) { c.Mode, c.SharedGPUs = ModeFractions, []string{"1", "1"} }, `--shared-gpus has "1" twice`},
		"no node":                    {func(c *Config) { c.NodeName = "" }, `--node-name is "": want the name of a Node: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`},
		"a relative path":            {func(c *Config) { c.Paths.CDI = "cdi" }, `--cdi-dir is "cdi": want an absolute path`},
		"no path":                    {func(c *Config) { c.Paths.State = "" }, `--state-dir is "": want an absolute path`},
		"a relative driver root":     {func(c *Config) { c.Driver.Root = "run/nvidia" }, `--driver-root is "run/nvidia": want an absolute path`},
		"a relative MPS root":        {func(c *Config) { c.MPSRoot = "mps" }, `--mps-root is "mps": want an absolute path`},
		"a port alone":               {func(c *Config) { c.Listen = "9411" }, `--listen is "9411": want an address and a port, such as 127.0.0.1:9411 or [::1]:9411`},
		"a port that is none":        {func(c *Config) { c.Listen = "127.0.0.1:99999" }, `--listen is "127.0.0.1:99999": want an address and a port, such as 127.0.0.1:9411 or [::1]:9411`},
		"two things, each on a line": {func(c *Config) { c.Mode, c.Listen = "x", "y" }, "--mode is \"x\": want all or fractions\n--listen is \"y\": want an address and a port, such as 127.0.0.1:9411 or [::1]:9411"},
	} {
		t.Run(name, func(t *testing.T) {
			c := good()
			tc.change(&c)
			got := ""
			if err := c.validate(); err != nil {
				got = err.Error()
			}
			if got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}
