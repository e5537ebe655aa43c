# The image of weft-scheduler: docker build -t registry.example.com/weft-scheduler:v0.1.0 .
FROM golang:1.26 AS build
WORKDIR /src
COPY . .
# Static, so that the image needs no libc. The version is that of the Kubernetes libraries: compatibility is decided by it.
RUN version=$(sed -n 's,^.*k8s\.io/kubernetes \(v[0-9.]*\)$,\1,p' go.mod) && \
    CGO_ENABLED=0 go build -trimpath -o /weft-scheduler \
      -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=${version}" ./cmd/weft-scheduler

FROM scratch
COPY --from=build /weft-scheduler /weft-scheduler
USER 65532:65532
ENTRYPOINT ["/weft-scheduler"]
