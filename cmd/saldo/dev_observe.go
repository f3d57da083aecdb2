package main

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/saldo-ledger/saldo/deploy"
)

// scrapeConfig has Prometheus ask one listener: router and coordinator are one process here and show the same.
const scrapeConfig = `# Written by saldo dev --observe, anew each time.
global:
  scrape_interval: 5s
  evaluation_interval: 5s
rule_files: [rules/*.yaml]
scrape_configs:
  - job_name: saldo-dev
    static_configs: [{targets: ["%s"]}]
`

// observe writes what Prometheus and Grafana need to the data directory, and says how to use it.
func (d *dev) observe() error {
	dir := filepath.Join(d.Data, "observe")
	for _, from := range []string{"prometheus/rules", "grafana/dashboards"} {
		to := filepath.Join(dir, path.Base(from))
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
		files, err := fs.ReadDir(deploy.Observe, from)
		if err != nil {
			return err
		}
		for _, file := range files {
			content, err := fs.ReadFile(deploy.Observe, path.Join(from, file.Name()))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(to, file.Name()), content, 0o644); err != nil {
				return err
			}
		}
	}
	config := filepath.Join(dir, "prometheus.yml")
	address := d.listener.Addr().String()
	if err := os.WriteFile(config, fmt.Appendf(nil, scrapeConfig, address), 0o644); err != nil {
		return err
	}
	traces := `none; to send them to what takes OTLP over HTTP there, such as Jaeger:
              OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318 saldo dev --observe`
	if endpoint := os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT"); endpoint != "" {
		traces = "go to " + endpoint
	}
	d.say(`To see what it does:

  metrics     http://%[1]s/metrics
  Prometheus  prometheus --config.file=%[2]s --storage.tsdb.path=%[3]s \
                --web.listen-address=127.0.0.1:9090 --enable-feature=exemplar-storage
              (with the alerts of production)
  Grafana     import, or provision, the dashboards in %[4]s
  traces      %[5]s
`, address, config, filepath.Join(dir, "data"), filepath.Join(dir, "dashboards"), traces)
	return nil
}
