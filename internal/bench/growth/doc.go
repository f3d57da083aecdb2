// Package growth measures how cost grows: with shards, with accounts, with history. The work is always the same, transfers
// between any two users of one shard, straight on the lanes: the router is not what is asked about.
//
// # Shards
//
// Each Postgres is held to a slice of a core by a cgroup, so that the shards are what the work waits for and not the
// machine that all of them share: as if each had a small machine of its own. Throughput should then grow as the number of
// shards, up to what the cores allow, and processor time of a transfer stay as it is. The slice is to be so small that all
// shards, the lanes and the load together fit into the cores; the results tell how many cores were busy.
//
// The kernel gives a slice in periods, by default of 100 ms: whoever has used up his part of one waits for the next, and
// latencies would tell of little else. With the shortest slice that the kernel knows, 1 ms, a tenth of a core has periods
// of 10 ms, and so waits of up to 9 ms. A wait may strike while a transaction holds locks. So latencies of held shards say
// little about Saldo; throughput and processor time do.
//
// # Accounts and history
//
// One shard, not held. The books that a measurement finds are not made by the lanes, which would take hours, but put into
// the tables as the lanes would have left them: the audit finds them clean. Then they are vacuumed, since a server that had
// lived to have them would have been.
//
// Every page of a table or an index that is written for the first time after a checkpoint goes whole into the WAL, and on
// many accounts hardly any is written twice for a while. So each number of them is measured twice: on a server that has not
// made a checkpoint since the books were put in, which is as it is long after one, and right after a checkpoint, which is
// the worst that there is. What a server does on average lies between, the nearer to the former the farther apart its
// checkpoints are.
package growth
