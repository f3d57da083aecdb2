// Command operator has the shards of LedgerClusters in one namespace of Kubernetes be what these say. Several may run: one
// is elected, and two at once are harmless.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"

	"github.com/alecthomas/kong"
	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/saldo-ledger/saldo/cmd/internal/wire"
	"github.com/saldo-ledger/saldo/internal/operator"
	"github.com/saldo-ledger/saldo/internal/operator/live"
	"github.com/saldo-ledger/saldo/internal/operator/v1alpha1"
)

func main() { wire.Main(run) }

type commands struct {
	Serve  serveCommand  `cmd:"" default:"withargs" help:"Run. This is what operator alone does."`
	Health healthCommand `cmd:"" help:"Ask the operator that runs on this machine whether it is ready."`

	Version kong.VersionFlag `help:"Print the version and exit."`
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	return wire.Run(ctx, new(commands), "operator", "Has Saldo's shards in Kubernetes be what a LedgerCluster says.", args, stdout, stderr)
}

type serveCommand struct {
	HTTP       string   `name:"http" env:"SALDO_OPERATOR_HTTP" default:"127.0.0.1:8082" help:"Address to serve on: /livez, /readyz, /metrics."`
	Namespace  string   `name:"namespace" env:"SALDO_NAMESPACE" required:"" help:"The namespace whose LedgerClusters are served."`
	Kubeconfig string   `name:"kubeconfig" env:"KUBECONFIG" placeholder:"FILE" help:"How to reach the API server from outside. Default: as a pod does."`
	Log        wire.Log `embed:""`
}

func (c *serveCommand) Run(ctx context.Context) error {
	log, err := c.Log.Logger()
	if err != nil {
		return err
	}
	manager, err := c.manager(log)
	if err != nil {
		return err
	}
	log.Info("the operator runs", "namespace", c.Namespace, "http", c.HTTP, "version", wire.Version)
	if err := manager.Start(ctx); err != nil {
		return fmt.Errorf("run the operator: %w", err)
	}
	return nil
}

// libraries is for what the libraries of Kubernetes have one of in a process: who they log to.
var libraries sync.Once

// manager wires the operator.
func (c *serveCommand) manager(log *slog.Logger) (ctrl.Manager, error) {
	libraries.Do(func() {
		ctrl.SetLogger(logr.FromSlogHandler(log.Handler()))
		klog.SetSlogLogger(log)
	})
	config, err := restConfig(c.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("find the API server (outside of a pod say --kubeconfig): %w", err)
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	manager, err := ctrl.NewManager(config, ctrl.Options{
		Scheme: scheme,
		Logger: logr.FromSlogHandler(log.Handler()),
		Cache:  cache.Options{DefaultNamespaces: map[string]cache.Config{c.Namespace: {}}},
		// One is elected, for efficiency and for a quiet log. It gives the lease back when it is told to stop, which is
		// right since the process ends then.
		LeaderElection: true, LeaderElectionID: "saldo-operator", LeaderElectionNamespace: c.Namespace,
		LeaderElectionReleaseOnCancel: true,
		Metrics: metricsserver.Options{BindAddress: c.HTTP, ExtraHandlers: map[string]http.Handler{
			"/livez":  healthz.CheckHandler{Checker: healthz.Ping},
			"/readyz": healthz.CheckHandler{Checker: healthz.Ping},
		}},
		HealthProbeBindAddress: "0",
	})
	if err != nil {
		return nil, fmt.Errorf("set up the operator: %w", err)
	}
	// Decisions are made by what the API server says now; the manager's cache only tells when to look.
	direct, err := client.New(config, client.Options{Scheme: scheme, Mapper: manager.GetRESTMapper()})
	if err != nil {
		return nil, fmt.Errorf("set up the operator: %w", err)
	}
	reconciler := &operator.Reconciler{
		Client: direct, Events: manager.GetEventRecorder("saldo-operator"), Log: log,
		Connect: func(ctx context.Context, to operator.Connection) (operator.Ledger, error) {
			return live.Connect(ctx, to, log)
		},
	}
	err = ctrl.NewControllerManagedBy(manager).
		Named("ledgercluster").
		For(&v1alpha1.LedgerCluster{}, builder.WithPredicates( // its own status wakes nobody
			predicate.Or[client.Object](predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}))).
		Watches(&appsv1.StatefulSet{}, handler.EnqueueRequestsFromMapFunc(operator.ClusterOf)).
		Complete(reconciler)
	if err != nil {
		return nil, fmt.Errorf("set up the operator: %w", err)
	}
	return manager, nil
}

type healthCommand struct {
	wire.Health `embed:""`
	HTTP        string `name:"http" env:"SALDO_OPERATOR_HTTP" default:"127.0.0.1:8082" help:"Address that it serves on."`
}

func (c *healthCommand) Run(ctx context.Context, stdout io.Writer) error {
	return c.Ask(ctx, c.HTTP, stdout)
}
