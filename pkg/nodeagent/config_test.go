package nodeagent

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/health"
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
		"the defaults":           {func(*Config) {}, ""},
		"fractions of some":      {func(c *Config) { c.Mode, c.SharedGPUs = ModeFractions, []string{"0", "GPU-8f2c"} }, ""},
		"every address, IPv6":    {func(c *Config) { c.Listen = "[::]:0" }, ""},
		"no such mode":           {func(c *Config) { c.Mode = "some" }, `--mode is "some": want all or fractions`},
		"fractions of none":      {func(c *Config) { c.Mode = ModeFractions }, "--shared-gpus is empty: --mode fractions wants the GPUs to share, by index or UUID"},
		"GPUs named for nothing": {func(c *Config) { c.SharedGPUs = []string{"1", "2"} }, `--shared-gpus is "1,2": it goes with --mode fractions only, for otherwise every GPU can be shared`},
		"a GPU that is none":     {func(c *Config) { c.Mode, c.SharedGPUs = ModeFractions, []string{"-1"} }, `--shared-gpus has "-1": want an index such as 4, or a UUID such as GPU-8f2c…, as nvidia-smi -L prints them`},
		"a GPU with a hole":      {func(c *Config) { c.Mode, c.SharedGPUs = ModeFractions, []string{"GPU-a/b"} }, `--shared-gpus has "GPU-a/b": want an index such as 4, or a UUID such as GPU-8f2c…, as nvidia-smi -L prints them`},
		"a GPU twice":            {func(c *Config) { c.Mode, c.SharedGPUs = ModeFractions, []string{"1", "1"} }, `--shared-gpus has "1" twice`},
		"no node":                {func(c *Config) { c.NodeName = "" }, `--node-name is "": want the name of a Node: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`},
		"a relative path":        {func(c *Config) { c.Paths.CDI = "cdi" }, `--cdi-dir is "cdi": want an absolute path`},
		"no path":                {func(c *Config) { c.Paths.State = "" }, `--state-dir is "": want an absolute path`},
		"a relative driver root": {func(c *Config) { c.Driver.Root = "run/nvidia" }, `--driver-root is "run/nvidia": want an absolute path`},
		"a relative MPS root":    {func(c *Config) { c.MPSRoot = "mps" }, `--mps-root is "mps": want an absolute path`},
		"a port alone":           {func(c *Config) { c.Listen = "9411" }, `--listen is "9411": want an address and a port, such as 127.0.0.1:9411 or [::1]:9411`},
		"a port that is none":    {func(c *Config) { c.Listen = "127.0.0.1:99999" }, `--listen is "127.0.0.1:99999": want an address and a port, such as 127.0.0.1:9411 or [::1]:9411`},
		"a quarantine without end": {
			func(c *Config) { c.Health.Quarantine = 48 * time.Hour },
			"--health-quarantine or --health-quarantine-blind: quarantine 48h0m0s: want 0 (the default) to 24h0m0s",
		},
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

func TestHealthFlags(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want health.Limits
		err  string
	}{
		"by default": {nil, health.Limits{Quarantine: 30 * time.Second, BlindQuarantine: 10 * time.Minute}, ""},
		"all": {
			[]string{"--health-quarantine=1m", "--health-quarantine-blind=1h", "--health-ignored-xids=94, 95"},
			health.Limits{Quarantine: time.Minute, BlindQuarantine: time.Hour, Ignored: []uint64{94, 95}},
			"",
		},
		"an Xid that is none": {[]string{"--health-ignored-xids=94,x"}, health.Limits{}, `"x": want numbers of Xids, such as 94,95`},
		"no such Xid":         {[]string{"--health-ignored-xids=0"}, health.Limits{}, `"0": want numbers of Xids, such as 94,95`},
	} {
		t.Run(name, func(t *testing.T) {
			var h HealthConfig
			flags := pflag.NewFlagSet("", pflag.ContinueOnError)
			h.addFlags(flags)
			if err := flags.Parse(tc.args); tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("error %v, want one with %s", err, tc.err)
				}
				return
			} else if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, h.Limits); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestChosenForMPS(t *testing.T) {
	mig := cardOf("GPU-m", 1)
	mig.MIG = true
	host := hostWith(cardOf("GPU-a", 0), mig, cardOf("GPU-b", 2))
	for name, tc := range map[string]struct {
		only []string
		want []gpu.ID
		err  string
	}{
		"all that are not in MIG mode": {nil, []gpu.ID{"GPU-a", "GPU-b"}, ""},
		"those that are named":         {[]string{"2"}, []gpu.ID{"GPU-b"}, ""},
		"one in MIG mode":              {[]string{"GPU-m"}, nil, "--gpus names GPU 1 (GPU-m), which is in MIG mode: its instances are apart without MPS"},
		"one that is not there":        {[]string{"0", "7"}, nil, `--gpus names "7", which the node does not have: it has 3 GPUs`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := chosen(host, tc.only)
			if text := ""; tc.err != "" {
				if err != nil {
					text = err.Error()
				}
				if text != tc.err {
					t.Errorf("error %q, want %q", text, tc.err)
				}
				return
			}
			if diff := cmp.Diff(tc.want, got); diff != "" || err != nil {
				t.Errorf("error %v, -want +got:\n%s", err, diff)
			}
		})
	}
}
