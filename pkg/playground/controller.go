package playground

import (
	"context"
	"fmt"
	"path/filepath"
)

// StartController starts weft-controller with the rights that the shipped manifests give it, alone and therefore without leader
// election, and returns when its /readyz is good. Its ledger is the file ledger.db in the run's directory, and is written every two
// seconds, so that who tries something sees what comes of it. binary may be empty, for [FindBinary]. ctx bounds the start only.
func StartController(ctx context.Context, cp *ControlPlane, binary string) (*Process, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("gave up after %v", startTimeout))
	defer cancel()
	if binary == "" {
		var err error
		if binary, err = FindBinary("weft-controller"); err != nil {
			return nil, err
		}
	}
	kubeconfig, err := cp.Kubeconfig(ControllerUser)
	if err != nil {
		return nil, err
	}
	return startServing(ctx, command{
		name: "weft-controller", path: binary, args: []string{
			"--kubeconfig=" + kubeconfig, "--leader-elect=false", "--v=2",
			"--ledger=" + filepath.Join(cp.Dir(), "ledger.db"), "--ledger-tick=2s",
		},
		dir: cp.Dir(), grace: schedulerGrace,
	}, kubeconfig)
}
