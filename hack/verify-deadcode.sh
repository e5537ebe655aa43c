#!/usr/bin/env bash
# Functions that nothing under cmd or test can reach. What only the unit tests of a package under pkg call counts as dead:
# it belongs in a _test.go file. Where it cannot be there (an invariant checker that tests of several packages share),
# hack/deadcode-allowed.txt names it with the reason. Generated functions are not reported.
#
# Packages that nothing there imports are not looked at, so a new package may be written before it is wired.
#
# It builds the whole program in memory, Kubernetes included, and keeps nothing from one run to the next: 45 s of CPU and
# 5 GiB each time, the most of all checks.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$(hack/tools.sh)

# One line for each: package.function, a tab, its place. -test makes the tests under test/ (and cmd/) entry points too.
dead=$("${tools}/deadcode" -f '{{$p := .Path}}{{range .Funcs}}{{$p}}.{{.Name}}{{"\t"}}{{.Position}}{{println}}{{end}}' -test ./cmd/... ./test/...)
awk -F '\t' '
  FNR == NR {
    if ($0 !~ /^(#|$)/) { split($0, words, " "); allowed[words[1]] = 1 }
    next
  }
  $1 == "" { next }
  $1 in allowed { used[$1] = 1; next }
  { print "nothing in cmd or test reaches " $1 "\t" $2; failed = 1 }
  END {
    for (name in allowed) if (!(name in used)) { print "hack/deadcode-allowed.txt: " name " is not dead, or is gone"; failed = 1 }
    exit failed
  }
' hack/deadcode-allowed.txt - <<<"${dead}" >&2
