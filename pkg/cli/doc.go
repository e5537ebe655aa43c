// Package cli is the command weft, also installed as kubectl-weft: it shows what the scheduler sees and says why it
// decides as it does.
//
//	weft top      the GPUs of the cluster and who is on them      List, NewReport, RenderMap, RenderGPUs
//	weft why POD  why a pod does not run, by class of node        List, NewAnswer, RenderAnswer
//	weft queue    the queues and what is left of their budgets    ListQueues, NewQueues, RenderQueues
//	weft report   who used how many GPU-hours, from the ledger    ledgerhttp.Reader, NewUsage, RenderUsage
//
// A command is three steps. Reading ([List]) is the only one that talks to the API server. Deciding ([NewReport],
// [NewAnswer]) is a function from API objects to plain values, by the code that the scheduler decides with: inventory.Build,
// fit.Explain and the rest of the core. Printing is a function from those values to text, or the values themselves as JSON
// or YAML; their fields are an interface, described in docs/cli.md.
//
// Nothing here changes anything in the cluster, and nothing needs the scheduler to run: what holds what is read from bound
// pods, so pods that the scheduler has decided on and not bound yet are not seen.
package cli
