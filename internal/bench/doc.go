// Package bench is the vocabulary of measurements: what was measured, on what, and what came out. Its folders measure and
// show; none of them is part of what serves.
//
//	load      calls something as fast as it goes or at a rate, and sums up latencies and errors
//	meter     what the work cost: processor time by process, commits, bytes of WAL and tables
//	stand     a cluster of its own to measure on: Postgres servers, etcd, routers, coordinators
//	work      the workloads, over HTTP and straight on the lanes
//	baseline  what people would use instead, and what Postgres can do at all
//	suite     which measurements are set against each other, and what they must reach
//	growth    how cost grows with shards, accounts and history
//	report    tables and plots from the raw results
//
// A figure is worth something only against another one of the same run: every suite measures both sides of a ratio on the
// same servers with the same settings, one right after the other.
package bench
