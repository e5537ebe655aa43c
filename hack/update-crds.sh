#!/usr/bin/env bash
# Writes manifests/crds/podgroups.yaml, the definition of PodGroup (scheduling.x-k8s.io/v1alpha1), from the Go types of the
# module sigs.k8s.io/scheduler-plugins in the version of go.mod. What Weft adds to it is in manifests/crds/additions.yaml,
# which the kustomization there applies; nothing is changed by hand.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$(hack/tools.sh)

work=$(mktemp -d)
trap 'rm -rf "${work}"' EXIT
"${tools}/controller-gen" crd paths=sigs.k8s.io/scheduler-plugins/apis/scheduling/v1alpha1 output:crd:dir="${work}"
{
  echo '# Made by hack/update-crds.sh. DO NOT EDIT.'
  # The types of the module include ElasticQuota, which is not Weft's.
  sed '/^---$/d' "${work}/scheduling.x-k8s.io_podgroups.yaml"
} >manifests/crds/podgroups.yaml
