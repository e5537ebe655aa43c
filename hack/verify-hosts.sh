#!/usr/bin/env bash
# No tracked file names a folder of the machine it was written on, a module proxy, or a registry to pull images from: Weft
# is built from source and must install where no registry is reachable, so its manifests name images without a host and
# the kustomization that a site writes adds it. registry.k8s.io is the exception, for every cluster pulls its pause image
# from there or has it mirrored. A line that has to name another (a real node's image in a test) says why in a comment
# that begins with `registry:`.
set -euo pipefail
cd "$(dirname "$0")/.."

failed=0
# search WHAT REGEX [EXCLUDED...] prints the lines of tracked text files that match and have no comment that allows it.
search() {
  local what=$1 regex=$2
  shift 2
  local found
  found=$(git grep -nIE "${regex}" -- . ':!LICENSE' ':!**/go.sum' "${@/#/:!}" | grep -v 'registry: ' || true)
  if [[ -n ${found} ]]; then
    printf '%s:\n%s\n' "${what}" "${found}" >&2
    failed=1
  fi
}

# The patterns are written so that they do not match themselves.
search 'a folder of one machine' '(^|[^A-Za-z0-9_.{}$-])/(work|root|home/[a-z]+)/'
search 'an image registry' '\b(docker[.]io|([a-z]+[.])?gcr[.]io|ghcr[.]io|quay[.]io|nvcr[.]io|[a-z0-9-]+[.]pkg[.]dev|[a-z0-9]+[.]azurecr[.]io|mcr[.]microsoft[.]com|public[.]ecr[.]aws)/'
search 'a module proxy' 'GOPROXY[=:] *[^ ]*://'
exit "${failed}"
