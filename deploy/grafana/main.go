// Command grafana writes the dashboards: `go generate ./deploy/grafana`. What is on them stands in dashboards.go; how
// Grafana wants to hear it stands here.
//
// They ask a Prometheus that scrapes routers and coordinators, whatever its jobs are called. Figures of a shard's server
// come from every coordinator, so they are taken together by shard.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

//go:generate go run .

func main() {
	for _, d := range dashboards() {
		content, err := json.MarshalIndent(d.render(), "", " ")
		if err == nil {
			err = os.WriteFile(filepath.Join("dashboards", d.name+".json"), append(content, '\n'), 0o644)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "write a dashboard:", err)
			os.Exit(1)
		}
	}
}

// dashboard is one page.
type dashboard struct {
	name, title, about string
	byShard            bool // it shows the shards that are chosen
	rows               []row
}

type row struct {
	title  string
	panels []panel
}

// panel shows queries. Its zero kind is a graph.
type panel struct {
	title, about string
	kind         kind
	unit         string // of Grafana's
	width        int    // of 24; 0 means 8
	worse        []float64
	queries      []query
}

type kind string

const (
	graph kind = ""
	stack kind = "stack" // a graph whose parts make a whole
	stat  kind = "stat"  // the number of now
)

// query is an expression, and what its lines are called.
type query struct{ expr, legend string }

type object = map[string]any

var prometheus = object{"type": "prometheus", "uid": "${datasource}"}

func (d dashboard) render() object {
	variables := []object{{
		"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "refresh": 1,
	}}
	if d.byShard {
		variables = append(variables, object{
			"name": "shard", "label": "Shard", "type": "query", "datasource": prometheus,
			"definition": "label_values(saldo_map_slots, shard)",
			"query":      object{"query": "label_values(saldo_map_slots, shard)", "refId": "shard"},
			"refresh":    2, "sort": 1, "multi": true, "includeAll": true, "allValue": ".*",
			"current": object{"text": []string{"All"}, "value": []string{"$__all"}},
		})
	}
	var panels []object
	id, y := 0, 0
	for _, r := range d.rows {
		id++
		panels = append(panels, object{
			"id": id, "type": "row", "title": r.title, "collapsed": false, "panels": []object{},
			"gridPos": object{"x": 0, "y": y, "w": 24, "h": 1},
		})
		y++
		x, height := 0, 0
		for _, p := range r.panels {
			id++
			if x+p.columns() > 24 {
				x, y, height = 0, y+height, 0
			}
			height = max(height, p.height())
			panels = append(panels, p.render(id, x, y))
			x += p.columns()
		}
		y += height
	}
	return object{
		"uid": "saldo-" + d.name, "title": "Saldo: " + d.title, "description": d.about, "tags": []string{"saldo"},
		"schemaVersion": 39, "version": 1, "editable": true, "graphTooltip": 1, "refresh": "10s", "timezone": "browser",
		"time":       object{"from": "now-30m", "to": "now"},
		"templating": object{"list": variables},
		"links": []object{{
			"title": "Saldo", "type": "dashboards", "tags": []string{"saldo"}, "asDropdown": false, "includeVars": true, "keepTime": true,
		}},
		"panels": panels,
	}
}

func (p panel) columns() int {
	switch {
	case p.width > 0:
		return p.width
	case p.kind == stat:
		return 3
	}
	return 8
}

func (p panel) height() int {
	if p.kind == stat {
		return 4
	}
	return 8
}

func (p panel) render(id, x, y int) object {
	targets := make([]object, len(p.queries))
	for i, q := range p.queries {
		targets[i] = object{
			"refId": string(rune('A' + i)), "datasource": prometheus, "editorMode": "code", "range": true,
			"expr": q.expr, "legendFormat": q.legend, "exemplar": p.unit == "s" && p.kind == graph,
		}
	}
	out := object{
		"id": id, "title": p.title, "description": p.about, "datasource": prometheus, "targets": targets,
		"gridPos": object{"x": x, "y": y, "w": p.columns(), "h": p.height()},
	}
	defaults := object{"unit": p.unit, "min": 0, "thresholds": p.thresholds()}
	if p.kind == stat {
		out["type"] = "stat"
		out["options"] = object{
			"colorMode": "value", "graphMode": "area", "textMode": "value",
			"reduceOptions": object{"calcs": []string{"lastNotNull"}, "fields": "", "values": false},
		}
	} else {
		custom := object{"lineWidth": 1, "fillOpacity": 8, "showPoints": "never", "spanNulls": false}
		if p.kind == stack {
			custom["stacking"], custom["fillOpacity"] = object{"mode": "normal"}, 40
		}
		defaults["custom"] = custom
		out["type"] = "timeseries"
		out["options"] = object{
			"legend":  object{"displayMode": "list", "placement": "bottom", "showLegend": true},
			"tooltip": object{"mode": "multi", "sort": "desc"},
		}
	}
	out["fieldConfig"] = object{"defaults": defaults, "overrides": []object{}}
	return out
}

// thresholds colour a number: green, from worse[0] on orange, from worse[1] on red.
func (p panel) thresholds() object {
	steps := []object{{"color": "green", "value": nil}}
	for i, from := range p.worse {
		steps = append(steps, object{"color": []string{"orange", "red"}[i], "value": from})
	}
	return object{"mode": "absolute", "steps": steps}
}
