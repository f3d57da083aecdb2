package deploy

import (
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const handbook = "../docs/OPERATIONS.md"

// Whoever is woken up is told how bad it is, what it is and what to do.
func TestAlertsLeadToTheHandbook(t *testing.T) {
	t.Parallel()
	content, err := fs.ReadFile(Observe, "prometheus/rules/saldo.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.UnmarshalStrict(content, &rules); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(handbook)
	if err != nil {
		t.Fatal(err)
	}
	_, chapter, _ := strings.Cut(string(text), "\n## Metrics and alerts\n")
	chapter, _, _ = strings.Cut(chapter, "\n## ")
	var sections, alerts []string
	for _, match := range regexp.MustCompile(`(?m)^#### (Saldo\w+)$`).FindAllStringSubmatch(chapter, -1) {
		sections = append(sections, match[1])
	}
	tests, err := os.ReadFile("prometheus/tests/saldo.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			if severity := rule.Labels["severity"]; severity != "critical" && severity != "warning" {
				t.Errorf("%s has severity %q", rule.Alert, severity)
			}
			if rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" {
				t.Errorf("%s does not say what it is", rule.Alert)
			}
			const base = "https://github.com/saldo-ledger/saldo/blob/main/docs/OPERATIONS.md#"
			if got := rule.Annotations["runbook_url"]; got != base+strings.ToLower(rule.Alert) {
				t.Errorf("%s leads to %s", rule.Alert, got)
			}
			if !slices.Contains(sections, rule.Alert) {
				t.Errorf("%s has no section in the handbook", rule.Alert)
			}
			if !strings.Contains(string(tests), rule.Alert) {
				t.Errorf("%s is not tested", rule.Alert)
			}
			alerts = append(alerts, rule.Alert)
		}
	}
	for _, section := range sections {
		if !slices.Contains(alerts, section) {
			t.Errorf("the handbook has a section about %s, which is no alert", section)
		}
	}
}

// Each alert fires when it must, and not before.
func TestAlertsFire(t *testing.T) {
	t.Parallel()
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("there is no promtool here (Debian: apt-get install prometheus)")
	}
	for _, args := range [][]string{
		{"check", "rules", "prometheus/rules/saldo.yaml"},
		{"test", "rules", "prometheus/tests/saldo.yaml"},
	} {
		if output, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, output)
		}
	}
}

type gridded struct {
	ID          int
	Type, Title string
	Datasource  struct{ UID string }
	GridPos     struct{ X, Y, W, H int }
	Targets     []struct{ Expr, RefID string }
}

// A dashboard is what Grafana can import as it is, whatever its data source is called.
func TestDashboards(t *testing.T) {
	t.Parallel()
	files, err := fs.Glob(Observe, "grafana/dashboards/*.json")
	if err != nil || len(files) != 5 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		content, err := fs.ReadFile(Observe, file)
		if err != nil {
			t.Fatal(err)
		}
		var d struct {
			UID, Title    string
			SchemaVersion int
			Templating    struct{ List []struct{ Name, Type string } }
			Panels        []gridded
		}
		if err := json.Unmarshal(content, &d); err != nil {
			t.Fatal(file, err)
		}
		if d.UID != "saldo-"+strings.TrimSuffix(filepath.Base(file), ".json") || d.Title == "" || d.SchemaVersion < 39 {
			t.Errorf("%s: uid %q, title %q, schema %d", file, d.UID, d.Title, d.SchemaVersion)
		}
		if len(d.Templating.List) == 0 || d.Templating.List[0].Name != "datasource" || d.Templating.List[0].Type != "datasource" {
			t.Errorf("%s lets nobody choose a data source", file)
		}
		isShard := func(v struct{ Name, Type string }) bool { return v.Name == "shard" }
		if strings.Contains(string(content), "$shard") != slices.ContainsFunc(d.Templating.List, isShard) {
			t.Errorf("%s asks for $shard, which nobody can choose, or the other way round", file)
		}
		for i, p := range d.Panels {
			if p.Type == "row" {
				continue
			}
			if len(p.Targets) == 0 || p.Datasource.UID != "${datasource}" || p.Title == "" {
				t.Errorf("%s: panel %d %q asks nothing, or somebody else", file, p.ID, p.Title)
			}
			for _, other := range d.Panels[:i] {
				if p.ID == other.ID || p.overlaps(other) {
					t.Errorf("%s: panels %q and %q have one id or one place", file, p.Title, other.Title)
				}
			}
		}
	}
}

func (p gridded) overlaps(q gridded) bool {
	a, b := p.GridPos, q.GridPos
	return a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H
}
