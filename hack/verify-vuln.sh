#!/usr/bin/env bash
# govulncheck: known vulnerabilities that our code can reach. It needs the vulnerability database (vuln.go.dev, or what
# GOVULNDB names). Where that cannot be reached the check is skipped and says so; it never fails for that.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$(hack/tools.sh)

# -version asks the database for its date, and is the cheapest question that needs it.
if ! answer=$(timeout 30 "${tools}/govulncheck" -version 2>&1) || [[ ${answer} != *"DB updated"* ]]; then
  echo "SKIPPED: the vulnerability database cannot be reached, so nothing was checked ($(grep -m 1 '^DB:' <<<"${answer}"))"
  exit
fi
"${tools}/govulncheck" ./cmd/...
