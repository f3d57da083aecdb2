// Package deploy holds what watches a cluster from outside, for the program that hands it out: Prometheus's rules, in
// prometheus/rules, and Grafana's dashboards, in grafana/dashboards. Whoever deploys takes them from there as files.
package deploy

import "embed"

//go:embed prometheus/rules/*.yaml grafana/dashboards/*.json
var Observe embed.FS
