# The images of weft-scheduler, of weft-controller and of weft-node, which weft-mps uses too:
#
#   docker build --target weft-scheduler -t registry.example.com/weft-scheduler:v0.1.0 .
#   docker build --target weft-controller -t registry.example.com/weft-controller:v0.1.0 .
#   docker build --target weft-node -t registry.example.com/weft-node:v0.1.0 .

# What weft-node runs on: anything with glibc 2.34 or later, for it loads NVIDIA's library from the node. A site that has an image
# without a shell, such as distroless base, names that: --build-arg GLIBC_IMAGE=…
ARG GLIBC_IMAGE=debian:12-slim

FROM golang:1.26-bookworm AS source
WORKDIR /src
COPY . .

FROM source AS build-node
# Lazy binding, for a driver's library has not all functions that NVML has had over the years.
RUN CGO_ENABLED=1 go build -trimpath -o /weft-node -ldflags "-s -w -extldflags=-Wl,-z,lazy" ./cmd/weft-node

FROM ${GLIBC_IMAGE} AS weft-node
COPY --from=build-node /weft-node /weft-node
# Root without capabilities: what it writes to on the node is root's. See manifests/node.
USER 0:0
ENTRYPOINT ["/weft-node"]

FROM source AS build-controller
# Static, so that the image needs no libc.
RUN CGO_ENABLED=0 go build -trimpath -o /weft-controller -ldflags "-s -w" ./cmd/weft-controller

FROM scratch AS weft-controller
COPY --from=build-controller /weft-controller /weft-controller
USER 65532:65532
ENTRYPOINT ["/weft-controller"]

FROM source AS build-scheduler
# Static, so that the image needs no libc. The version is that of the Kubernetes libraries: compatibility is decided by it.
RUN version=$(sed -n 's,^.*k8s\.io/kubernetes \(v[0-9.]*\)$,\1,p' go.mod) && \
    CGO_ENABLED=0 go build -trimpath -o /weft-scheduler \
      -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=${version}" ./cmd/weft-scheduler

FROM scratch AS weft-scheduler
COPY --from=build-scheduler /weft-scheduler /weft-scheduler
USER 65532:65532
ENTRYPOINT ["/weft-scheduler"]
