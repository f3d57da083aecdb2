package bench

import "time"

// Run is one run of a suite: its raw results, with what must be known to read them.
type Run struct {
	Suite    string            `json:"suite"`
	At       time.Time         `json:"at"`
	Commit   string            `json:"commit"` // of the source, "" if unknown
	Seed     uint64            `json:"seed"`
	Machine  Machine           `json:"machine"`
	Settings map[string]string `json:"settings"` // of Postgres, as it says, and what routers and coordinators were told
	Results  []Result          `json:"results"`
	Rows     []Row             `json:"rows,omitempty"`
}

// Machine is what a run ran on.
type Machine struct {
	CPUs     int     `json:"cpus"`
	CPU      string  `json:"cpu"`
	MemoryGB float64 `json:"memory_gb"`
	Kernel   string  `json:"kernel"`
	System   string  `json:"system"`
	Go       string  `json:"go"`
	Postgres string  `json:"postgres"`
	Etcd     string  `json:"etcd,omitempty"`
	FlushMS  float64 `json:"flush_ms"`     // median of an fsync after a small write
	LoadAvg  float64 `json:"load_average"` // before the run
}

// Result is one measurement: one workload on one target.
type Result struct {
	Work    string  `json:"work"`   // "same", "hot-payee", "cross", "balance", …
	Target  string  `json:"target"` // "http", "lanes", "function", "2pc", "insert", …
	Callers int     `json:"callers"`
	Rate    float64 `json:"rate,omitempty"` // asked for, in units per second; 0: as fast as it goes (closed loop)
	Shards  int     `json:"shards"`
	// Params is whatever else tells this measurement from others: accounts, cross share, batch size, depth, CPU slice, …
	Params map[string]float64 `json:"params,omitempty"`

	Units     int64            `json:"units"`            // transfers, reads or pages that were done
	Seconds   float64          `json:"seconds"`          // that they took, without the warm-up
	PerSecond float64          `json:"per_second"`       // units
	Latency   Latency          `json:"latency"`          // of a call
	Errors    map[string]int64 `json:"errors,omitempty"` // calls by code
	Missed    int64            `json:"missed,omitempty"` // calls that an open loop could not send in time

	Cost      Cost  `json:"cost"`
	Conserved *bool `json:"conserved,omitempty"` // what the audit said afterwards; nil: not asked
}

// Latency is of calls, in milliseconds.
type Latency struct {
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99_9"`
	Max  float64 `json:"max"`
}

// Cost is what a thousand units took; 0 means not measured.
type Cost struct {
	// CPU is processor seconds for a thousand units by kind of process: "router", "coordinator", "postgres", "load".
	CPU        map[string]float64 `json:"cpu_s_per_1000,omitempty"`
	Commits    float64            `json:"commits_per_1000,omitempty"` // by all shards
	BatchSize  float64            `json:"batch_size,omitempty"`       // units for each commit
	WALBytes   float64            `json:"wal_bytes_per_unit,omitempty"`
	TableBytes float64            `json:"table_bytes_per_unit,omitempty"` // tables and their indexes
	RSSBytes   map[string]float64 `json:"rss_bytes,omitempty"`            // peak, by kind of process
}

// Row is one line of what Saldo must reach: ours against theirs, measured in the same run.
type Row struct {
	Work    string  `json:"work"`
	Against string  `json:"against"`
	Ours    float64 `json:"ours"`
	Theirs  float64 `json:"theirs"`
	Ratio   float64 `json:"ratio"`
	Floor   float64 `json:"floor"`             // the ratio must be at least this, or
	Ceiling float64 `json:"ceiling,omitempty"` // at most this
	Goal    float64 `json:"goal,omitempty"`
	Met     bool    `json:"met"`
}
