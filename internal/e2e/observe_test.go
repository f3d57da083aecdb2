package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"sigs.k8s.io/yaml"

	"github.com/saldo-ledger/saldo/internal/api/apitest"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// Dashboards, alerts and the handbook speak of what routers and coordinators really emit: a small cluster is given some of
// everything to do, a move too, and what it tells then is compared.
func TestWhatIsEmitted(t *testing.T) {
	t.Parallel()
	c := newCluster(t, size{coordinator: []string{"SALDO_RETENTION=0s"}})
	f, _ := c.faces(t)
	w := emitter{cluster: c, f: f}
	emitted := w.work(t)
	// Some values are a few seconds old.
	for deadline := time.Now().Add(2 * long); ; time.Sleep(500 * time.Millisecond) {
		w.scrapeAll(t, w.addresses(t), emitted)
		missing := missing(t, emitted)
		if len(missing) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("never emitted: %v", missing)
		}
	}

	t.Run("dashboards and alerts", func(t *testing.T) {
		asked := append(dashboardQueries(t), alertQueries(t)...)
		for _, q := range asked {
			q.check(t, emitted)
		}
	})
	t.Run("handbook", func(t *testing.T) { checkHandbook(t, emitted) })
	t.Run("traces", func(t *testing.T) { w.checkExemplars(t) })
	t.Run("prometheus", func(t *testing.T) { w.askPrometheus(t) })
}

// whereElse says of metrics that this cluster cannot emit what it takes; "" for those that others emit.
var whereElse = map[string]string{
	"saldo_postgres_standbys":                  "a standby",
	"saldo_postgres_replication_lag_bytes":     "a standby",
	"saldo_postgres_replication_delay_seconds": "a standby",
	"saldo_telemetry_spans_dropped_total":      "a collector that is down",

	"kubelet_volume_stats_available_bytes": "",
	"kubelet_volume_stats_capacity_bytes":  "",
	"node_filesystem_avail_bytes":          "",
	"node_filesystem_size_bytes":           "",
	"ALERTS":                               "",
}

// emitter is a cluster with some load.
type emitter struct {
	cluster *cluster
	f       face
	users   []string // the first half on the first shard
}

// work has the cluster do some of everything, and move slots to and fro until a request had to wait for that. It returns what
// was emitted meanwhile.
func (w *emitter) work(t *testing.T) metricLabels {
	t.Helper()
	const users = 16
	for i := range users {
		id := w.cluster.user(i*2/users, fmt.Sprint("watched-", i))
		w.f.newUser(id, 1000)
		w.users = append(w.users, id)
	}
	near, here, far := w.users[0], w.users[1], w.users[users-1]
	w.f.transfer(near, here, 1, "local").want(201, "")
	w.f.transfer(near, here, 1, "local")
	w.f.transfer(near, far, 1, "apart")
	w.f.settles(near, "apart", "COMPLETED")
	w.f.transfer(near, w.cluster.user(1, "nobody"), 1, "refunded")
	w.f.settles(near, "refunded", "REFUNDED")
	w.f.post("/transfers/batch", `{"transfers":[`+transferBody(near, here, 1, "b1")+`,`+transferBody(near, here, 100_000, "b2")+`]}`).want(200, "")
	w.f.get("/users/"+near+"/history?page_size=2").want(200, "")
	w.f.get("/nowhere").want(404, "not_found")

	ctx, stop := context.WithCancel(t.Context())
	var paying sync.WaitGroup
	defer paying.Wait()
	defer stop()
	var (
		addresses = w.addresses(t)
		mu        sync.Mutex
		emitted   = make(metricLabels)
	)
	paying.Go(func() {
		for ; ctx.Err() == nil; time.Sleep(100 * time.Millisecond) { // some is told only while a move is under way
			mu.Lock()
			w.scrapeAll(t, addresses, emitted)
			mu.Unlock()
		}
	})
	seen := func(metric string) bool {
		mu.Lock()
		defer mu.Unlock()
		return emitted[metric] != nil
	}
	for n, id := range w.users[:users/2] {
		paying.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				body := transferBody(id, w.users[users/2+n], 1, fmt.Sprint("pay-", n, "-", i))
				if got, err := w.f.try(postCase("/transfers", body)); err != nil || got.StatusCode > 202 {
					t.Errorf("a transfer is answered %v, %v", got, err)
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	var slots []string
	for _, id := range w.users[:users/2] {
		slots = append(slots, fmt.Sprint(placement.SlotOf(ledger.UserID(id))))
	}
	from, to := "s1", "s2"
	for range 10 {
		args := []string{"move", "start", "--from", from, "--to", to, "--slots", strings.Join(slots, ","), "--wait"}
		until(t, "slots move", long, func() bool { // not before the copy that the last one left is deleted
			_, stderr, code, err := run(w.cluster.env, w.cluster.saldo, args...)
			if code != 0 && !strings.Contains(stderr, "copy") && !strings.Contains(stderr, "one at a time") {
				t.Fatalf("saldo move start exits with %d: %v\n%s", code, err, stderr)
			}
			return code == 0
		})
		from, to = to, from
		if seen("saldo_move_hold_duration_seconds_bucket") && seen("saldo_move_phase_age_seconds") {
			break
		}
	}
	stop()
	paying.Wait()
	return emitted
}

var servesOperators = regexp.MustCompile(`operators are served.*http=(\S+)`)

// addresses are where metrics are told.
func (w *emitter) addresses(t *testing.T) []string {
	t.Helper()
	addresses := slices.Clone(w.cluster.addresses)
	for _, p := range w.cluster.coordinators {
		said := servesOperators.FindStringSubmatch(p.output())
		if said == nil {
			t.Fatalf("%s does not say where it serves operators:\n%s", p.name, p.output())
		}
		addresses = append(addresses, said[1])
	}
	return addresses
}

// scrapeAll adds what is told at the addresses.
func (w *emitter) scrapeAll(t *testing.T, addresses []string, to metricLabels) {
	for _, address := range addresses {
		response, err := w.cluster.client.Get("http://" + address + "/metrics")
		if err != nil {
			t.Error(err)
			return
		}
		parser := expfmt.NewTextParser(model.LegacyValidation)
		families, err := parser.TextToMetricFamilies(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK {
			t.Errorf("/metrics of %s: %s, %v", address, response.Status, err)
			return
		}
		to.add(families)
	}
}

// metricLabels are the labels that each metric comes with, by the name that queries know it by.
type metricLabels map[string]map[string]bool

func (m metricLabels) add(families map[string]*dto.MetricFamily) {
	for name, family := range families {
		names := []string{name}
		if family.GetType() == dto.MetricType_HISTOGRAM {
			names = []string{name + "_bucket", name + "_sum", name + "_count"}
		}
		for _, metric := range family.Metric {
			for _, name := range names {
				if m[name] == nil {
					m[name] = map[string]bool{"instance": true, "job": true}
				}
				for _, label := range metric.Label {
					m[name][label.GetName()] = true
				}
			}
			if family.GetType() == dto.MetricType_HISTOGRAM {
				m[names[0]]["le"] = true
			}
		}
	}
}

// missing are the metrics that the handbook has and this cluster should tell.
func missing(t *testing.T, emitted metricLabels) (names []string) {
	t.Helper()
	for _, row := range handbook(t) {
		if whereElse[row.name] == "" && emitted[row.name] == nil && emitted[row.name+"_bucket"] == nil {
			names = append(names, row.name)
		}
	}
	return names
}

// asking is an expression of a dashboard or an alert.
type asking struct {
	where, expr string
	labels      []string // that what it returns should have
	maybe       bool     // it may have nothing to say
}

var (
	selector  = regexp.MustCompile(`\b((?:saldo|http|process|go|node|kubelet)_[a-z0-9_]+|ALERTS)\b(\{[^}]*\})?`)
	condition = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)`)
	grouping  = regexp.MustCompile(`\b(?:by|on|ignoring|without)\s*\(([^)]*)\)`)
	template  = regexp.MustCompile(`\{\{\s*(?:\$labels\.)?([a-z_]+)\s*\}\}`)
)

// check makes sure that everything that is asked for is there, with its labels.
func (q asking) check(t *testing.T, emitted metricLabels) {
	t.Helper()
	have := make(map[string]bool)
	found := selector.FindAllStringSubmatch(grouping.ReplaceAllString(q.expr, ""), -1)
	if len(found) == 0 {
		t.Errorf("%s asks for nothing: %s", q.where, q.expr)
	}
	for _, match := range found {
		name := match[1]
		if _, ok := whereElse[name]; ok {
			return // its labels are not known here
		}
		if emitted[name] == nil {
			t.Errorf("%s asks for %s, which nobody emits", q.where, name)
			continue
		}
		maps.Copy(have, emitted[name])
		for _, label := range condition.FindAllStringSubmatch(match[2], -1) {
			if !emitted[name][label[1]] {
				t.Errorf("%s asks for %s by %s, which it does not have: %v", q.where, name, label[1], slices.Sorted(maps.Keys(emitted[name])))
			}
		}
	}
	wanted := slices.Clone(q.labels)
	for _, match := range grouping.FindAllStringSubmatch(q.expr, -1) {
		for label := range strings.SplitSeq(match[1], ",") {
			if label = strings.TrimSpace(label); label != "" {
				wanted = append(wanted, label)
			}
		}
	}
	for _, label := range wanted {
		if !have[label] {
			t.Errorf("%s wants label %s, which none of its metrics has: %s", q.where, label, q.expr)
		}
	}
}

func dashboardQueries(t *testing.T) (all []asking) {
	t.Helper()
	files, err := filepath.Glob("../../deploy/grafana/dashboards/*.json")
	if err != nil || len(files) != 5 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var dashboard struct {
			Panels []struct {
				Title   string
				Targets []struct{ Expr, LegendFormat string }
			}
		}
		if err := json.Unmarshal(content, &dashboard); err != nil {
			t.Fatal(file, err)
		}
		for _, panel := range dashboard.Panels {
			for _, target := range panel.Targets {
				q := asking{where: filepath.Base(file) + ": " + panel.Title, expr: target.Expr}
				for _, label := range template.FindAllStringSubmatch(target.LegendFormat, -1) {
					q.labels = append(q.labels, label[1])
				}
				all = append(all, q)
			}
		}
	}
	return all
}

func alertQueries(t *testing.T) (all []asking) {
	t.Helper()
	content, err := os.ReadFile("../../deploy/prometheus/rules/saldo.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(content, &rules); err != nil {
		t.Fatal(err)
	}
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			q := asking{where: rule.Alert, expr: rule.Expr, maybe: true}
			for _, text := range rule.Annotations {
				for _, label := range template.FindAllStringSubmatch(text, -1) {
					q.labels = append(q.labels, label[1])
				}
			}
			all = append(all, q)
		}
	}
	return all
}

// described is a row of the handbook's table of metrics.
type described struct {
	name   string
	labels []string
}

var metricRow = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([^|]*)\\|")

func handbook(t *testing.T) (rows []described) {
	t.Helper()
	content, err := os.ReadFile("../../docs/OPERATIONS.md")
	if err != nil {
		t.Fatal(err)
	}
	_, chapter, _ := strings.Cut(string(content), "\n## Metrics and alerts\n")
	chapter, _, _ = strings.Cut(chapter, "\n## ")
	for _, match := range metricRow.FindAllStringSubmatch(chapter, -1) {
		row := described{name: match[1]}
		for label := range strings.SplitSeq(match[2], ",") {
			if label = strings.Trim(label, " `"); label != "" {
				row.labels = append(row.labels, label)
			}
		}
		rows = append(rows, row)
	}
	if len(rows) < 50 {
		t.Fatalf("the handbook's table of metrics has %d rows", len(rows))
	}
	return rows
}

// checkHandbook compares the table with what is emitted, in both directions.
func checkHandbook(t *testing.T, emitted metricLabels) {
	described := make(map[string]bool)
	for _, row := range handbook(t) {
		described[row.name] = true
		if _, ok := whereElse[row.name]; ok {
			continue
		}
		labels := emitted[row.name]
		if labels == nil {
			labels = emitted[row.name+"_bucket"]
		}
		labels = maps.Clone(labels)
		for _, everywhere := range []string{"instance", "job", "le"} {
			delete(labels, everywhere)
		}
		slices.Sort(row.labels)
		if have := slices.Sorted(maps.Keys(labels)); !slices.Equal(have, row.labels) {
			t.Errorf("the handbook says that %s has labels %v, it has %v", row.name, row.labels, have)
		}
	}
	for name := range emitted {
		name = strings.TrimSuffix(name, "_bucket")
		ours := strings.HasPrefix(name, "saldo_") || strings.HasPrefix(name, "http_")
		part := strings.TrimSuffix(strings.TrimSuffix(name, "_sum"), "_count")
		if ours && !described[name] && !described[part] {
			t.Errorf("%s is not in the handbook's table of metrics", name)
		}
	}
}

// checkExemplars: who scrapes with OpenMetrics gets ids of traces that were sampled.
func (w *emitter) checkExemplars(t *testing.T) {
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	w.f.send(apitest.Case{Method: "GET", Path: "/users/" + w.users[0] + "/balance", Header: http.Header{
		"Traceparent": {"00-" + trace + "-00f067aa0ba902b7-01"},
	}}).want(200, "")
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+w.f.address+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", "application/openmetrics-text;version=1.0.0")
	response, err := w.cluster.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`http_server_request_duration_seconds_bucket\{[^}]*\} \d+ # \{[^}]*trace_id="` + trace + `"`).Match(content) {
		t.Error("no bucket of the requests' durations has the trace of one as its example")
	}
}

const scrapes = `
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%s]
scrape_configs: [{job_name: saldo, static_configs: [{targets: ["%s"]}]}]
`

// askPrometheus has a real one scrape the cluster and answer every expression.
func (w *emitter) askPrometheus(t *testing.T) {
	path, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("there is no prometheus here: expressions are only compared with what is emitted (Debian: apt-get install prometheus)")
	}
	rules, err := filepath.Abs("../../deploy/prometheus/rules/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	text := fmt.Sprintf(scrapes, rules, strings.Join(w.addresses(t), `","`))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	p := newProcess(t, "prometheus", cleanEnv(), path, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+address, "--log.level=warn")
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	// Counters grow while it looks.
	payer, payee, stranger := w.users[0], w.users[15], w.cluster.user(1, "nobody")
	var ready time.Time
	for i := 0; ready.IsZero() || time.Since(ready) < 3*time.Second; i++ {
		w.f.transfer(payer, payee, 1, fmt.Sprint("seen-", i))
		w.f.transfer(payer, stranger, 1, fmt.Sprint("seen-refunded-", i))
		up, err := w.query(address, "sum(up)")
		if ready.IsZero() && err == nil && len(up) == 1 && up[0].Value[1] == fmt.Sprint(len(w.addresses(t))) {
			ready = time.Now()
		}
		if p.gone() {
			t.Fatal("prometheus ended")
		}
		time.Sleep(50 * time.Millisecond)
	}
	for _, q := range append(dashboardQueries(t), alertQueries(t)...) {
		expr := strings.NewReplacer("$__rate_interval", "1m", "$__range", "1m", "$shard", ".*").Replace(q.expr)
		got, err := w.query(address, expr)
		for name := range whereElse {
			q.maybe = q.maybe || strings.Contains(expr, name)
		}
		switch {
		case err != nil:
			t.Errorf("%s: %s: %v", q.where, expr, err)
		case len(got) == 0 && !q.maybe && !quietHere(expr):
			t.Errorf("%s has no data: %s", q.where, expr)
		}
	}
}

// quietHere are expressions that have data only while a move is under way.
func quietHere(expr string) bool { return strings.Contains(expr, "saldo_move_phase_age_seconds") }

type vectorSample struct{ Value [2]any }

func (w *emitter) query(address, expr string) ([]vectorSample, error) {
	response, err := w.cluster.client.Get("http://" + address + "/api/v1/query?query=" + url.QueryEscape(expr))
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var answer struct {
		Status, Error string
		Data          struct{ Result []vectorSample }
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return nil, err
	}
	if answer.Status != "success" {
		return nil, fmt.Errorf("%s", answer.Error)
	}
	return answer.Data.Result, nil
}
