package shard

import "strconv"

// advisoryKey is the shard-wide advisory lock of a database: shared by every transaction that writes a slotted row,
// exclusive for one that changes ownership.
const advisoryKey = int64(0x53414c444f) // "SALDO"

// As a statement of its own: a lock that is taken in the statement that checks would check an older snapshot.
var lockSharedStatement = statement{"lock_shared", `select pg_advisory_xact_lock_shared(` + strconv.FormatInt(advisoryKey, 10) + `)`}

const guardStatement = `select guard($1, $2, $3::smallint[], $4::bigint[])`

// A lane also says at which revision of the slots it was told that all of these are owned as held; null if it was not.
// The package's doc says why that is enough.
var guardLaneStatement = statement{"guard", `select guard($1, $2, $3::smallint[], $4::bigint[], $5)`}
