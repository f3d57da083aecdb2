package main

import "fmt"

const (
	short   = "short"
	each    = "ops" // a second
	seconds = "s"
	bytes   = "bytes"
	percent = "percentunit"
)

// requests are those of clients, without the questions of load balancers.
const requests = `http_route=~"/users.*|/transfers.*|/app/.*"`

// rate is a counter's growth in a second.
func rate(by, selector string) string {
	return fmt.Sprintf("sum by (%s) (rate(%s[$__rate_interval]))", by, selector)
}

// quantile is below which such a part of a histogram's samples lies.
func quantile(q float64, by, histogram, labels string) string {
	if by != "" {
		by = ", " + by
	}
	return fmt.Sprintf("histogram_quantile(%v, sum by (le%s) (rate(%s_bucket{%s}[$__rate_interval])))", q, by, histogram, labels)
}

// quantiles are the middle and the slow end.
func quantiles(by, histogram, labels, legend string) []query {
	return []query{
		{quantile(0.5, by, histogram, labels), legend + " p50"},
		{quantile(0.99, by, histogram, labels), legend + " p99"},
	}
}

func dashboards() []dashboard { return []dashboard{overview(), shards(), sagas(), moves(), postgres()} }

func overview() dashboard {
	return dashboard{name: "overview", title: "overview",
		about: "Whether the ledger serves, how fast, and where to look next.",
		rows: []row{
			{"Now", []panel{
				{
					title: "Requests", kind: stat, unit: "reqps",
					queries: []query{
						{`sum(rate(http_server_request_duration_seconds_count{` + requests + `}[$__rate_interval]))`, ""},
					},
				},
				{
					title: "Failed", kind: stat, unit: percent, worse: []float64{0.001, 0.01},
					about: "Answered 500, 503 or 504.",
					queries: []query{
						{
							`sum(rate(http_server_request_duration_seconds_count{` + requests + `,http_response_status_code=~"5.."}[$__rate_interval]))` +
								` / sum(rate(http_server_request_duration_seconds_count{` + requests + `}[$__rate_interval])) or vector(0)`,
							"",
						},
					},
				},
				{
					title: "Transfers, p99", kind: stat, unit: seconds, worse: []float64{0.25, 0.5},
					queries: []query{
						{quantile(0.99, "", "http_server_request_duration_seconds", `http_route="/transfers"`), ""},
					},
				},
				{
					title: "Shards up", kind: stat, unit: short,
					queries: []query{{`sum(max by (shard) (saldo_postgres_up))`, ""}},
				},
				{
					title: "Oldest open transfer", kind: stat, unit: seconds, worse: []float64{30, 120},
					about:   "Between shards.",
					queries: []query{{`max(saldo_saga_oldest_age_seconds)`, ""}},
				},
				{
					title: "Age of the oldest map", kind: stat, unit: seconds, worse: []float64{10, 60},
					about:   "How long ago etcd confirmed it.",
					queries: []query{{`max(saldo_map_age_seconds)`, ""}},
				},
				{
					title: "Audit: violations", kind: stat, unit: short, worse: []float64{1, 1},
					queries: []query{{`sum(max by (check) (saldo_audit_violations))`, ""}},
				},
				{
					title: "Alerts", kind: stat, unit: short, worse: []float64{1, 1},
					queries: []query{{`count(ALERTS{alertname=~"Saldo.*",alertstate="firing"}) or vector(0)`, ""}},
				},
			}},
			{"Clients", []panel{
				{
					title: "Requests", unit: each, kind: stack,
					queries: []query{
						{
							rate("http_request_method, http_route", `http_server_request_duration_seconds_count{`+requests+`}`),
							"{{http_request_method}} {{http_route}}",
						},
					},
				},
				{
					title: "Errors", unit: each,
					about: "By code. Those of 4xx are refusals by the ledger's rules, or requests that make no sense.",
					queries: []query{
						{
							rate("http_response_status_code, error_type", `http_server_request_duration_seconds_count{error_type!=""}`),
							"{{http_response_status_code}} {{error_type}}",
						},
					},
				},
				{
					title: "Duration", unit: seconds,
					queries: quantiles("http_route", "http_server_request_duration_seconds", requests, "{{http_route}}"),
				},
				{
					title: "Transfers in batches", unit: each,
					queries: []query{{rate("code", `saldo_http_batch_transfers_total`), "{{code}}"}},
				},
				{
					title: "In progress", unit: short,
					about: "In routers, and how many a router lets in.",
					queries: []query{
						{`sum by (instance, kind) (saldo_http_active)`, "{{instance}} {{kind}}"},
						{`min by (kind) (saldo_http_limit)`, "limit {{kind}}"},
					},
				},
				{
					title: "Refused before they reached a shard", unit: each,
					about:   "More came than the shard gets done: 503 overloaded.",
					queries: []query{{rate("shard, kind", `saldo_admission_refused_total`), "{{shard}} {{kind}}"}},
				},
			}},
			{"Audit", []panel{
				{
					title: "Violations", unit: short,
					queries: []query{{`max by (check) (saldo_audit_violations)`, "{{check}}"}},
				},
				{
					title: "What is new was checked", unit: seconds,
					about:   "How long ago, on every shard.",
					queries: []query{{`time() - max(saldo_audit_last_run_timestamp_seconds)`, "ago"}},
				},
				{
					title: "Sweep over all rows", unit: percent,
					queries: []query{
						{`max(saldo_audit_swept)`, "done"},
						{`min(saldo_audit_clean)`, "clean"},
					},
				},
				{title: "Rows judged", unit: each, queries: []query{{`sum(rate(saldo_audit_covered_total[$__rate_interval]))`, "rows"}}},
				{
					title: "Rounds", unit: seconds,
					about:   "How long the latest one took.",
					queries: []query{{`max(saldo_audit_round_duration_seconds)`, "round"}},
				},
				{title: "Sweeps", unit: short, queries: []query{{`max(saldo_audit_sweeps_total)`, "since it was elected"}}},
			}},
			{"Parts", []panel{
				{
					title: "Operations", unit: each,
					about:   "Steps that were recorded.",
					queries: []query{{rate("shard", `saldo_lane_operations_total`), "{{shard}}"}},
				},
				{
					title: "Slots", unit: short, kind: stack,
					queries: []query{{`max by (shard) (saldo_map_slots)`, "{{shard}}"}},
				},
				{
					title: "Who leads", unit: short,
					about:   "1 for each election that a coordinator leads.",
					queries: []query{{`sum by (instance, election) (saldo_cluster_leading) > 0`, "{{instance}} {{election}}"}},
				},
				{
					title: "Processor", unit: short,
					about:   "Cores in use.",
					queries: []query{{`rate(process_cpu_seconds_total[$__rate_interval])`, "{{job}} {{instance}}"}},
				},
				{
					title: "Memory", unit: bytes,
					queries: []query{{`process_resident_memory_bytes`, "{{job}} {{instance}}"}},
				},
				{title: "Goroutines", unit: short, queries: []query{{`go_goroutines`, "{{job}} {{instance}}"}}},
			}},
		},
	}
}

func shards() dashboard {
	const chosen = `shard=~"$shard"`
	return dashboard{name: "shards", title: "shards", byShard: true,
		about: "What the lanes of routers and coordinators do with each shard.",
		rows: []row{
			{"Work", []panel{
				{
					title: "Operations", unit: each,
					about:   "Steps that were recorded, by what they were.",
					queries: []query{{rate("shard, step", `saldo_lane_operations_total{`+chosen+`}`), "{{shard}} {{step}}"}},
				},
				{
					title: "Refused by the rules", unit: each,
					queries: []query{
						{
							rate("shard, outcome", `saldo_lane_operations_total{`+chosen+`,outcome!="applied"}`),
							"{{shard}} {{outcome}}",
						},
					},
				},
				{
					title: "Replays", unit: each,
					about:   "Operations that were known, and answered from their record.",
					queries: []query{{rate("shard", `saldo_lane_replays_total{`+chosen+`}`), "{{shard}}"}},
				},
			}},
			{"Lanes", []panel{
				{
					title: "Queue", unit: short,
					queries: []query{
						{`sum by (shard, instance) (saldo_lane_queue{` + chosen + `})`, "{{shard}} {{instance}}"},
						{`max(saldo_lane_limit{` + chosen + `})`, "limit"},
					},
				},
				{
					title: "Wait for a writer", unit: seconds,
					queries: quantiles("shard", "saldo_lane_wait_seconds", chosen, "{{shard}}"),
				},
				{
					title: "Operations in a commit", unit: short,
					queries: []query{
						{quantile(0.5, "shard", "saldo_lane_batch_size", chosen), "{{shard}} p50"},
						{quantile(0.99, "shard", "saldo_lane_batch_size", chosen), "{{shard}} p99"},
					},
				},
				{
					title: "First round trip", unit: seconds,
					about:   "Locks, the guard, accounts and known operations.",
					queries: quantiles("shard", "saldo_lane_load_duration_seconds", chosen, "{{shard}}"),
				},
				{
					title: "Second round trip", unit: seconds,
					about:   "All is stored, and the commit is on disk and where replication wants it.",
					queries: quantiles("shard", "saldo_lane_commit_duration_seconds", chosen, "{{shard}}"),
				},
				{
					title: "Failed attempts", unit: each,
					about:   "transient: the server was away or busy; unknown: an answer was lost; twin: somebody else recorded the same.",
					queries: []query{{rate("shard, fate", `saldo_lane_failures_total{`+chosen+`}`), "{{shard}} {{fate}}"}},
				},
			}},
			{"Guard and limits", []panel{
				{
					title: "Refusals of the guard", unit: each,
					about:   "moved, fenced and epoch_old come with moves. epoch_ahead and stranger: look at once.",
					queries: []query{{rate("shard, kind", `saldo_guard_refusals_total{`+chosen+`}`), "{{shard}} {{kind}}"}},
				},
				{
					title: "Let in at a time", unit: short,
					about: "By routers: the limit is what the shard gets done in about the target.",
					queries: []query{
						{`sum by (shard, kind) (saldo_admission_limit{` + chosen + `})`, "limit {{shard}} {{kind}}"},
						{`sum by (shard, kind) (saldo_admission_active{` + chosen + `})`, "{{shard}} {{kind}}"},
					},
				},
				{
					title: "Waiting, and refused", unit: short,
					queries: []query{
						{`sum by (shard, kind) (saldo_admission_waiting{` + chosen + `})`, "waiting {{shard}} {{kind}}"},
						{rate("shard, kind", `saldo_admission_refused_total{`+chosen+`}`), "refused {{shard}} {{kind}}"},
						{rate("shard, kind", `saldo_admission_accepted_total{`+chosen+`}`), "accepted {{shard}} {{kind}}"},
					},
				},
				{
					title: "Connections", unit: short,
					queries: []query{
						{`sum by (shard, pool, state) (saldo_pool_connections{` + chosen + `})`, "{{shard}} {{pool}} {{state}}"},
						{`sum by (shard, pool) (saldo_pool_limit{` + chosen + `})`, "limit {{shard}} {{pool}}"},
					},
				},
				{
					title: "Reads that waited for a connection", unit: each,
					queries: []query{{rate("shard", `saldo_pool_waits_total{`+chosen+`}`), "{{shard}}"}},
				},
				{
					title: "How long they waited", unit: short,
					about:   "Seconds of waiting in each second.",
					queries: []query{{rate("shard", `saldo_pool_wait_time_seconds_total{`+chosen+`}`), "{{shard}}"}},
				},
				{
					title: "Slots", unit: short,
					queries: []query{{`max by (shard) (saldo_map_slots{` + chosen + `})`, "{{shard}}"}},
				},
				{
					title: "Weight", unit: short,
					queries: []query{{`max by (shard, state) (saldo_map_weight{` + chosen + `})`, "{{shard}} {{state}}"}},
				},
			}},
		},
	}
}

func sagas() dashboard {
	const chosen = `shard=~"$shard"`
	return dashboard{name: "sagas", title: "transfers between shards", byShard: true,
		about: "Transfers whose payer and payee live on different shards, from debit to end. The shard is their home, the payer's.",
		rows: []row{
			{"Ends", []panel{
				{
					title: "Begun", unit: each,
					queries: []query{{rate("shard", `saldo_saga_begun_total{`+chosen+`}`), "{{shard}}"}},
				},
				{
					title: "Ended", unit: each,
					queries: []query{
						{rate("shard, state", `saldo_saga_duration_seconds_count{`+chosen+`}`), "{{shard}} {{state}}"},
					},
				},
				{
					title: "From debit to end", unit: seconds,
					queries: quantiles("state", "saldo_saga_duration_seconds", chosen, "{{state}}"),
				},
				{
					title: "Refunds", unit: each,
					about:   "By the reason of the payee's shard.",
					queries: []query{{rate("reason", `saldo_saga_refunds_total{`+chosen+`}`), "{{reason}}"}},
				},
			}},
			{"Open", []panel{
				{
					title: "Open, by age", unit: short, kind: stack,
					about:   "Younger than that.",
					queries: []query{{`sum by (age) (max by (shard, age) (saldo_saga_open{` + chosen + `}))`, "{{age}}"}},
				},
				{
					title: "The oldest", unit: seconds,
					queries: []query{{`max by (shard) (saldo_saga_oldest_age_seconds{` + chosen + `})`, "{{shard}}"}},
				},
				{
					title: "Carried by the routers that have begun them", unit: short,
					queries: []query{{`sum by (instance) (saldo_saga_carried)`, "{{instance}}"}},
				},
				{
					title: "Carried by coordinators", unit: short,
					about:   "What routers have left, by what is done next.",
					queries: []query{{`sum by (shard, phase) (saldo_saga_running{` + chosen + `})`, "{{shard}} {{phase}}"}},
				},
				{
					title: "Steps sent again", unit: each,
					queries: []query{{rate("shard, action", `saldo_saga_retries_total{`+chosen+`}`), "{{shard}} {{action}}"}},
				},
				{
					title: "Contradictions", unit: short,
					about: "A person must look.",
					queries: []query{
						{`sum by (shard) (increase(saldo_saga_contradictions_total{` + chosen + `}[$__range]))`, "{{shard}}"},
					},
				},
				{
					title: "Who drives", unit: short,
					queries: []query{
						{
							`sum by (instance, election) (saldo_cluster_leading{election=~"sagas[.].*"}) > 0`,
							"{{instance}} {{election}}",
						},
					},
				},
			}},
		},
	}
}

func moves() dashboard {
	return dashboard{name: "moves", title: "moves",
		about: "Slots that move from shard to shard, and who waits for that.",
		rows: []row{
			{"Moves", []panel{
				{
					title: "Open, by phase", unit: short, kind: stack,
					queries: []query{
						{`max by (phase) (saldo_move_open)`, "{{phase}}"},
						{`max(saldo_move_paused)`, "of them paused"},
					},
				},
				{
					title: "Longest in a phase", unit: seconds,
					queries: []query{{`max by (phase) (saldo_move_phase_age_seconds)`, "{{phase}}"}},
				},
				{
					title: "Rows", unit: "rowsps",
					queries: []query{
						{rate("source, target, kind", `saldo_move_rows_total`), "{{source}} to {{target}}: {{kind}}"},
					},
				},
				{
					title: "Ended", unit: short,
					queries: []query{{`sum by (outcome) (increase(saldo_move_ended_total[$__rate_interval]))`, "{{outcome}}"}},
				},
				{
					title: "Errors, by phase", unit: short,
					queries: []query{{`sum by (phase) (increase(saldo_move_errors_total[$__rate_interval]))`, "{{phase}}"}},
				},
				{
					title: "Left alone, and ended by the dead man's switch", unit: short,
					queries: []query{
						{`sum(saldo_move_resting)`, "left alone"},
						{`sum(increase(saldo_move_deadman_total[$__rate_interval]))`, "ended by another coordinator"},
					},
				},
				{
					title: "Slots", unit: short, kind: stack,
					queries: []query{{`max by (shard) (saldo_map_slots)`, "{{shard}}"}},
				},
			}},
			{"Who waits", []panel{
				{
					title: "Slots stand still", unit: seconds,
					queries: quantiles("outcome", "saldo_move_fence_duration_seconds", "", "{{outcome}}"),
				},
				{
					title: "Held now", unit: short,
					about:   "Requests in routers, steps of transfers in coordinators.",
					queries: []query{{`sum by (instance) (saldo_move_held)`, "{{instance}}"}},
				},
				{
					title: "Held for", unit: seconds,
					about:   "expired and crowded: they were answered 503.",
					queries: quantiles("outcome", "saldo_move_hold_duration_seconds", "", "{{outcome}}"),
				},
				{
					title: "How holds ended", unit: each,
					queries: []query{{rate("outcome", `saldo_move_hold_duration_seconds_count`), "{{outcome}}"}},
				},
				{
					title: "Refusals of the guard", unit: each,
					queries: []query{{rate("kind", `saldo_guard_refusals_total`), "{{kind}}"}},
				},
				{
					title: "Maps asked for", unit: each,
					about:   "Since one was found wrong.",
					queries: []query{{rate("instance, outcome", `saldo_map_refreshes_total`), "{{instance}} {{outcome}}"}},
				},
			}},
			{"Map", []panel{
				{
					title: "Revision", unit: short,
					queries: []query{{`max by (instance) (saldo_map_revision)`, "{{instance}}"}},
				},
				{
					title: "Age", unit: seconds,
					about:   "How long ago etcd confirmed it.",
					queries: []query{{`max by (instance) (saldo_map_age_seconds)`, "{{instance}}"}},
				},
				{
					title: "Connected to etcd, and standing still", unit: short,
					queries: []query{
						{`min by (instance) (saldo_map_connected)`, "{{instance}} connected"},
						{`max by (instance) (saldo_map_problem)`, "{{instance}} keys make no sense"},
					},
				},
			}},
		},
	}
}

func postgres() dashboard {
	const chosen = `{shard=~"$shard"}`
	one := func(metric string) string { return `max by (shard) (` + metric + chosen + `)` }
	// Each coordinator reads the same counters: the largest rate is the rate.
	growth := func(by, metric string) string {
		return `max by (` + by + `) (rate(` + metric + chosen + `[$__rate_interval]))`
	}
	found := func(from string) string {
		return `max by (shard) (rate(saldo_postgres_blocks_total{shard=~"$shard",from="` + from + `"}[$__rate_interval]))`
	}
	return dashboard{name: "postgres", title: "Postgres", byShard: true,
		about: "The server of each shard, as coordinators see it every ten seconds.",
		rows: []row{
			{"Servers", []panel{
				{
					title: "Up", unit: short,
					about:   "The adopted primary answers.",
					queries: []query{{one("saldo_postgres_up"), "{{shard}}"}},
				},
				{
					title: "Timeline", unit: short,
					about:   "One more after each failover.",
					queries: []query{{one("saldo_postgres_timeline"), "{{shard}}"}},
				},
				{
					title: "Transactions", unit: each,
					queries: []query{{growth("shard, outcome", "saldo_postgres_transactions_total"), "{{shard}} {{outcome}}"}},
				},
				{
					title: "Sessions", unit: short,
					queries: []query{
						{one("saldo_postgres_connections"), "{{shard}}"},
						{one("saldo_postgres_connections_limit"), "{{shard}} limit"},
					},
				},
				{
					title: "Found in memory", unit: percent,
					about: "Of the blocks that were needed.",
					queries: []query{
						{
							found("memory") + " / (" + found("memory") + " + " + found("disk") + ")",
							"{{shard}}",
						},
					},
				},
				{
					title: "Deadlocks", unit: short,
					queries: []query{
						{
							`max by (shard) (increase(saldo_postgres_deadlocks_total{shard=~"$shard"}[$__rate_interval]))`,
							"{{shard}}",
						},
					},
				},
			}},
			{"Disk", []panel{
				{
					title: "Database", unit: bytes,
					queries: []query{{one("saldo_postgres_database_size_bytes"), "{{shard}}"}},
				},
				{
					title: "Log written", unit: "Bps",
					queries: []query{{growth("shard", "saldo_postgres_wal_written_bytes_total"), "{{shard}}"}},
				},
				{
					title: "Log kept for standbys", unit: bytes,
					about:   "A slot whose standby is gone keeps it for ever, and fills the disk.",
					queries: []query{{one("saldo_postgres_wal_retained_bytes"), "{{shard}}"}},
				},
				{
					title: "Oldest open transaction", unit: seconds,
					about:   "It keeps vacuum waiting, and moves. 0 for a login that lacks pg_read_all_stats.",
					queries: []query{{one("saldo_postgres_transaction_oldest_seconds"), "{{shard}}"}},
				},
				{
					title: "Transactions since the oldest unfrozen row", unit: short, worse: []float64{1e9, 1.5e9},
					queries: []query{{one("saldo_postgres_frozen_age"), "{{shard}}"}},
				},
			}},
			{"Replication", []panel{
				{
					title: "Standbys", unit: short,
					about: "By state, and by whether commits wait for them.",
					queries: []query{
						{`max by (shard, state, sync) (saldo_postgres_standbys` + chosen + `)`, "{{shard}} {{state}} {{sync}}"},
					},
				},
				{
					title: "Lag", unit: bytes,
					about: "Of the log, on the standby's disk.",
					queries: []query{
						{
							`max by (shard, standby) (saldo_postgres_replication_lag_bytes` + chosen + `)`,
							"{{shard}} {{standby}}",
						},
					},
				},
				{
					title: "Delay", unit: seconds,
					queries: []query{
						{
							`max by (shard, standby) (saldo_postgres_replication_delay_seconds` + chosen + `)`,
							"{{shard}} {{standby}}",
						},
					},
				},
			}},
		},
	}
}
