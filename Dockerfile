# Saldo's images, a target each: router, coordinator, saldo (the program for people), operator.
#
#   docker build --target router --build-arg VERSION=$(git describe --tags --always) --tag saldo-router .
#
# `make images` builds them all, with whichever builder there is: the classic one knows neither cache mounts nor BUILDPLATFORM.
#
# The programs are static, and compiled on the architecture of the machine for the one that is asked for, so that nothing is
# emulated. An image holds one program and the certificate authorities: no shell, no user but 65532, nothing to write to.

ARG GO_IMAGE=golang:1.26.8-alpine

FROM --platform=$BUILDPLATFORM $GO_IMAGE AS source
WORKDIR /src
ARG GOPROXY
ENV CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS="-trimpath -buildvcs=false -mod=readonly"
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .

FROM source AS programs
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=dev
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    GOOS=$TARGETOS GOARCH=$TARGETARCH go build -o /out/ \
        -ldflags "-s -w -X github.com/saldo-ledger/saldo/cmd/internal/wire.Version=$VERSION" \
        ./cmd/router ./cmd/coordinator ./cmd/saldo

FROM scratch AS base
COPY --from=source /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
USER 65532:65532
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.vendor="Saldo" \
      org.opencontainers.image.source="https://github.com/saldo-ledger/saldo" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"

FROM base AS router
LABEL org.opencontainers.image.title="saldo-router" \
      org.opencontainers.image.description="Serves Saldo's HTTP face"
COPY --from=programs /out/router /router
ENV SALDO_HTTP=:8080
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=4s --start-period=30s --retries=3 CMD ["/router", "health"]
ENTRYPOINT ["/router"]

FROM base AS coordinator
LABEL org.opencontainers.image.title="saldo-coordinator" \
      org.opencontainers.image.description="Carries Saldo's transfers between shards to their ends, and moves slots"
COPY --from=programs /out/coordinator /coordinator
ENV SALDO_ADMIN_HTTP=:8081
EXPOSE 8081
HEALTHCHECK --interval=5s --timeout=4s --start-period=30s --retries=3 CMD ["/coordinator", "health"]
ENTRYPOINT ["/coordinator"]

FROM base AS saldo
LABEL org.opencontainers.image.title="saldo" \
      org.opencontainers.image.description="Saldo for people: its shards, its audit, its bench"
COPY --from=programs /out/saldo /saldo
ENTRYPOINT ["/saldo"]

# The operator is compiled by itself, and last: it is by far the largest, and only Kubernetes needs it.
FROM source AS operator-program
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=dev
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    GOOS=$TARGETOS GOARCH=$TARGETARCH go build -o /out/ \
        -ldflags "-s -w -X github.com/saldo-ledger/saldo/cmd/internal/wire.Version=$VERSION" \
        ./cmd/operator

FROM base AS operator
LABEL org.opencontainers.image.title="saldo-operator" \
      org.opencontainers.image.description="Runs Saldo's shards on Kubernetes"
COPY --from=operator-program /out/operator /operator
EXPOSE 8082
HEALTHCHECK --interval=5s --timeout=4s --start-period=30s --retries=3 CMD ["/operator", "health"]
ENTRYPOINT ["/operator"]
