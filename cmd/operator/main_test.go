package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/saldo-ledger/saldo/cmd/internal/configtest"
	"github.com/saldo-ledger/saldo/internal/operator/operatortest"
	"github.com/saldo-ledger/saldo/internal/operator/v1alpha1"
)

func TestConfigurationIsInTheHandbook(t *testing.T) {
	t.Parallel()
	configtest.Check(t, "operator", new(commands))
}

func TestRunRefuses(t *testing.T) {
	t.Parallel()
	for words, args := range map[string][]string{
		"--namespace":        {"--kubeconfig", "/nowhere"},
		"API server":         {"--namespace", "saldo", "--kubeconfig", "/nowhere"},
		"connection refused": {"health", "--http", "127.0.0.1:1"},
	} {
		if err := run(t.Context(), args, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%v: %v", args, err)
		}
	}
}

// The program against a real API server: it serves its probes and metrics, is elected, and says what is in the way.
func TestServe(t *testing.T) {
	config, kubeconfig := operatortest.APIServer(t, filepath.Join("..", "..", "deploy", "k8s", "operator", "crd", "ledger.saldo.dev_ledgerclusters.yaml"))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"--namespace", "default", "--kubeconfig", kubeconfig, "--http", address, "--log-level", "warn"}, io.Discard, io.Discard)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	eventually(t, "it is ready", func() bool {
		return run(t.Context(), []string{"health", "--http", address}, io.Discard, io.Discard) == nil
	})

	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	api, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	cluster := &v1alpha1.LedgerCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "main"},
		Spec: v1alpha1.LedgerClusterSpec{
			Shards: 1, Postgres: v1alpha1.Postgres{Image: "postgres:17.5", Storage: v1alpha1.Storage{Size: resource.MustParse("1Gi")}},
			Etcd: v1alpha1.Etcd{Endpoints: []string{"http://127.0.0.1:1"}}, PasswordSecret: v1alpha1.SecretReference{Name: "services"},
		},
	}
	if err := api.Create(t.Context(), cluster); err != nil {
		t.Fatal(err)
	}
	blocked := func(reason string) func() bool {
		return func() bool {
			if err := api.Get(t.Context(), client.ObjectKeyFromObject(cluster), cluster); err != nil {
				t.Fatal(err)
			}
			c := meta.FindStatusCondition(cluster.Status.Conditions, v1alpha1.ConditionBlocked)
			return c != nil && c.Reason == reason
		}
	}
	eventually(t, "it misses the secret", blocked("SecretMissing"))
	if err := api.Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "services"}, StringData: map[string]string{"username": "app", "password": "x"},
	}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it misses etcd", blocked("RegistryUnreachable"))
	eventually(t, "it tells whoever describes the LedgerCluster", func() bool {
		var list corev1.EventList
		if err := api.List(t.Context(), &list, client.InNamespace("default")); err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(list.Items, func(e corev1.Event) bool {
			return e.InvolvedObject.Name == "main" && e.Reason == "Blocked" && e.Type == corev1.EventTypeWarning
		})
	})
	response, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if text, err := io.ReadAll(response.Body); err != nil || !strings.Contains(string(text), `controller_runtime_reconcile_total{controller="ledgercluster"`) {
		t.Errorf("the metrics: %v\n%.300s", err, text)
	}
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}
