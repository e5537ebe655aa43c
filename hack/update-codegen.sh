#!/usr/bin/env bash
# Writes zz_generated.deepcopy.go, zz_generated.defaults.go and zz_generated.conversion.go of the API packages under
# pkg/apis. A package asks for each of them by a marker in its doc.go:
#
#   pkg/apis/config      // +k8s:deepcopy-gen=package
#   pkg/apis/config/v1   // +k8s:deepcopy-gen=package
#                        // +k8s:defaulter-gen=TypeMeta
#                        // +k8s:conversion-gen=weft.sh/weft/pkg/apis/config
#
# Packages without a marker are left alone, and without any there is nothing to do.
set -euo pipefail
cd "$(dirname "$0")/.."

# packages_with MARKER prints the folders under pkg/apis that have it in a file of their own, as ./pkg/apis/...
packages_with() {
  [[ -d pkg/apis ]] || return 0
  { grep -rlE --include='*.go' --exclude='zz_generated.*' "^// \+k8s:$1=" pkg/apis || true; } |
    sed 's#^\(.*\)/[^/]*$#./\1#' | sort -u
}

# generate TOOL MARKER FILE [FLAG...] runs one generator over the packages that have its marker.
generate() {
  local tool=$1 marker=$2 file=$3
  shift 3
  # A package that lost its marker, or its last type that needs the file, must not keep the old one; and a generator
  # that sees its own old output may take it for written by hand.
  [[ ! -d pkg/apis ]] || find pkg/apis -name "${file}" -delete
  local packages
  mapfile -t packages < <(packages_with "${marker}")
  if ((${#packages[@]} == 0)); then
    echo "update-codegen.sh: no package asks for ${file}"
    return
  fi
  echo "update-codegen.sh: ${file} in ${packages[*]}"
  "${tools}/${tool}" --go-header-file /dev/null --output-file "${file}" "$@" "${packages[@]}"
}

tools=$(hack/tools.sh)
generate deepcopy-gen deepcopy-gen zz_generated.deepcopy.go
generate defaulter-gen defaulter-gen zz_generated.defaults.go
generate conversion-gen conversion-gen zz_generated.conversion.go
