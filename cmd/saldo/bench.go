package main

// benchCommand is `saldo bench`: each of its commands is a file bench_*.go here.
type benchCommand struct {
	Run     benchRunCommand     `cmd:"" help:"Measure workloads over HTTP, on a cluster of its own or on one that runs."`
	List    benchListCommand    `cmd:"" help:"Tell which workloads there are."`
	Compare benchCompareCommand `cmd:"" help:"Set Saldo against what people would use instead, and against what Postgres can do at all."`
	Growth  benchGrowthCommand  `cmd:"" help:"Measure how cost grows with shards, accounts and history."`
	Report  benchReportCommand  `cmd:"" help:"Write tables and plots of docs/PERFORMANCE.md from the raw results."`
}
