#!/usr/bin/env bash
# Writes the definitions under manifests/crds from Go types: queues.yaml and gpuclasses.yaml from pkg/apis/weft, podgroups.yaml
# (PodGroup of scheduling.x-k8s.io/v1alpha1) from the module sigs.k8s.io/scheduler-plugins in the version of go.mod. What Weft
# adds to PodGroup is in manifests/crds/additions.yaml, which the kustomization there applies; nothing is changed by hand.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$(hack/tools.sh)

work=$(mktemp -d)
trap 'rm -rf "${work}"' EXIT
# The types of scheduler-plugins include ElasticQuota, which is not Weft's.
"${tools}/controller-gen" crd paths=sigs.k8s.io/scheduler-plugins/apis/scheduling/v1alpha1 paths=./pkg/apis/weft/... \
  output:crd:dir="${work}"
for definition in scheduling.x-k8s.io_podgroups weft.sh_queues weft.sh_gpuclasses; do
  {
    echo '# Made by hack/update-crds.sh. DO NOT EDIT.'
    sed '/^---$/d' "${work}/${definition}.yaml"
  } >"manifests/crds/${definition#*_}.yaml"
done
