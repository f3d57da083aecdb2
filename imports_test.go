package saldo_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/saldo-ledger/saldo/"

// imports is the house: which of our packages a package may import, and which foreign things it is there to know. Arrows
// point down only; an adapter hides one foreign thing and never imports another adapter; they meet in cmd and in
// internal/assembly.
var imports = map[string]struct{ ours, foreign []string }{
	// decisions: pure
	"internal/ledger":         {},
	"internal/placement":      {ours: []string{"internal/ledger"}, foreign: []string{"github.com/cespare/xxhash/v2"}},
	"internal/rebalance/plan": {ours: []string{"internal/ledger", "internal/placement"}},
	"internal/admission":      {},
	"saga":                    {ours: []string{"internal/ledger", "internal/placement", "internal/meter", "internal/tracing"}, foreign: []string{"go.opentelemetry.io/otel"}},

	// use cases: over interfaces that they declare
	"internal/routing": {
		ours:    []string{"internal/ledger", "internal/placement", "saga", "internal/meter", "internal/tracing"},
		foreign: []string{"go.opentelemetry.io/otel"},
	},
	"internal/rebalance": {
		ours:    []string{"internal/ledger", "internal/placement", "internal/rebalance/plan", "internal/meter", "internal/tracing"},
		foreign: []string{"github.com/cenkalti/backoff/v5", "go.opentelemetry.io/otel"},
	},
	"internal/audit":   {ours: []string{"internal/ledger", "internal/placement"}, foreign: []string{"golang.org/x/sync"}},
	"internal/auditor": {ours: []string{"internal/ledger", "internal/placement", "internal/audit", "internal/meter"}},
	"internal/mend":    {ours: []string{"internal/ledger", "internal/audit"}},

	// adapters: each hides one thing
	"shard": {
		ours:    []string{"internal/ledger", "internal/placement", "internal/audit", "internal/rebalance", "saga", "internal/meter", "internal/tracing"},
		foreign: []string{"go.opentelemetry.io/otel", "github.com/jackc/pgx/v5", "github.com/pressly/goose/v3", "github.com/cenkalti/backoff/v5", "github.com/cespare/xxhash/v2"},
	},
	"internal/cluster": {
		ours:    []string{"internal/ledger", "internal/placement", "internal/meter"},
		foreign: []string{"go.etcd.io/etcd/client/v3", "go.etcd.io/etcd/api/v3", "github.com/cenkalti/backoff/v5", "github.com/google/uuid", "google.golang.org/grpc", "go.uber.org/zap"},
	},
	"internal/api": {
		ours:    []string{"internal/ledger", "internal/meter", "internal/tracing"},
		foreign: []string{"github.com/gin-gonic/gin", "github.com/google/uuid", "go.opentelemetry.io/otel"},
	},
	"internal/admin": {
		ours:    []string{"internal/ledger", "internal/placement", "internal/rebalance"},
		foreign: []string{"github.com/prometheus/client_model", "github.com/prometheus/common", "go.opentelemetry.io/otel"},
	},
	"internal/meter":   {foreign: []string{"go.opentelemetry.io/otel"}},
	"internal/tracing": {ours: []string{"internal/ledger", "internal/placement"}, foreign: []string{"go.opentelemetry.io/otel"}},
	"internal/telemetry": {
		ours:    []string{"internal/tracing"},
		foreign: []string{"go.opentelemetry.io/otel", "go.opentelemetry.io/contrib/bridges/otelslog", "github.com/prometheus/client_golang"},
	},
	"internal/local": {foreign: []string{
		"go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/client/pkg/v3", "github.com/cenkalti/backoff/v5", "go.uber.org/zap", "golang.org/x/sys",
	}},

	// a cluster as a whole: where the adapters of shards and registry meet
	"internal/assembly": {
		ours:    []string{"internal/ledger", "internal/placement", "internal/cluster", "internal/audit", "internal/mend", "internal/rebalance", "shard"},
		foreign: []string{"golang.org/x/sync"},
	},

	// what is deployed beside the programs
	"deploy":         {},
	"deploy/grafana": {},

	// shards in Kubernetes
	"internal/operator/v1alpha1": {foreign: []string{"k8s.io/api", "k8s.io/apimachinery"}},
	"internal/operator": {
		ours:    []string{"internal/ledger", "internal/operator/v1alpha1"},
		foreign: []string{"k8s.io/api", "k8s.io/apimachinery", "k8s.io/client-go", "sigs.k8s.io/controller-runtime"},
	},
	"internal/operator/live": {ours: []string{
		"internal/ledger", "internal/placement", "internal/operator", "internal/assembly", "internal/cluster", "internal/rebalance", "shard",
	}},

	// measurements: beside the house, none of it serves
	"internal/bench":      {},
	"internal/bench/load": {ours: []string{"internal/bench"}, foreign: []string{"github.com/HdrHistogram/hdrhistogram-go"}},

	// the load of the deep check on Kubernetes: a client like any other
	"deploy/k8s/test/payer": {},
}

// Test machinery, the programs and what measures may import what they like, unless the table says otherwise; nobody may
// import them.
func free(pkg string) bool {
	_, placed := imports[pkg]
	return strings.HasPrefix(pkg, "cmd/") || strings.HasSuffix(pkg, "test") || pkg == "internal/e2e" ||
		strings.HasPrefix(pkg, "internal/bench/") && !placed
}

func TestImportsFollowTheHouse(t *testing.T) {
	t.Parallel()
	for _, p := range listPackages(t) {
		pkg := strings.TrimPrefix(p.ImportPath, module)
		if free(pkg) {
			continue
		}
		allowed, ok := imports[pkg]
		if !ok {
			t.Errorf("package %s has no place in the house: give it one in the table of this test", pkg)
			continue
		}
		for _, path := range p.Imports {
			ours, isOurs := strings.CutPrefix(path, module)
			switch {
			case isOurs:
				if !slices.Contains(allowed.ours, ours) {
					t.Errorf("%s must not import %s", pkg, ours)
				}
			case strings.Contains(strings.Split(path, "/")[0], "."):
				if !slices.ContainsFunc(allowed.foreign, func(m string) bool { return path == m || strings.HasPrefix(path, m+"/") }) {
					t.Errorf("%s must not import %s", pkg, path)
				}
			}
		}
	}
}

type goPackage struct {
	ImportPath string
	Imports    []string
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var packages []goPackage
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		if p.ImportPath+"/" != module && len(p.Imports) > 0 {
			packages = append(packages, p)
		}
	}
}
