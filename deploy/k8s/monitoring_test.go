package k8s

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write components/monitoring/rules.yaml anew")

// The alerts of the Prometheus Operator are those of deploy/prometheus/rules, in its words.
func TestAlertsAreThoseOfPrometheus(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../prometheus/rules/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var groups []any
	for _, file := range files {
		if strings.HasSuffix(file, "_test.yaml") {
			continue
		}
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var rules struct {
			Groups []any `json:"groups"`
		}
		if err := yaml.UnmarshalStrict(content, &rules); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		groups = append(groups, rules.Groups...)
	}
	if len(groups) == 0 {
		t.Fatal("no rules in deploy/prometheus/rules")
	}
	want, err := yaml.Marshal(map[string]any{
		"apiVersion": "monitoring.coreos.com/v1",
		"kind":       "PrometheusRule",
		"metadata":   map[string]any{"name": "saldo", "namespace": "saldo"},
		"spec":       map[string]any{"groups": groups},
	})
	if err != nil {
		t.Fatal(err)
	}
	const says = "# Made of deploy/prometheus/rules by `go test ./deploy/k8s -run Alerts -update`. Change those.\n"
	want = slices.Concat([]byte(says), want)
	const made = "components/monitoring/rules.yaml"
	if *update {
		if err := os.WriteFile(made, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s is not what deploy/prometheus/rules says: run this test with -update", made)
	}
}

// Every dashboard of deploy/grafana is offered to Grafana.
func TestDashboardsAreOffered(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../grafana/dashboards/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no dashboards in deploy/grafana/dashboards (%v)", err)
	}
	offered := make(map[string]string)
	for _, c := range of[*corev1.ConfigMap](render(t, "overlays/production")) {
		if c.Labels["grafana_dashboard"] == "1" {
			for name, content := range c.Data {
				offered[name] = content
			}
		}
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if offered[filepath.Base(file)] != string(content) {
			t.Errorf("%s is in no ConfigMap: name it in deploy/grafana/kustomization.yaml", file)
		}
	}
}
